"""Facts about a machine, from texts of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from swarming.bot import machine, machine_mac, machine_windows

XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Gold 6142 CPU @ 2.60GHz\nprocessor\t: 1\n"
UBUNTU = 'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04 LTS"\n'


@pytest.mark.parametrize(
    ("system", "release", "expected"),
    [
        ("Linux", UBUNTU, ["Linux", "Ubuntu", "Ubuntu-22.04"]),
        ("Linux", "ID=arch\n", ["Linux", "Arch"]),
        ("Linux", "", ["Linux", "Linux-6.1"]),
        ("Darwin", "", ["Mac", "Mac-6.1"]),
    ],
)
def test_operating_system_goes_from_general_to_exact(system: str, release: str, expected: list[str]) -> None:
    assert machine.os_names(system, release, "6.1") == expected


@pytest.mark.parametrize(
    ("name", "cpuinfo", "expected"),
    [
        ("x86_64", XEON, ["x86", "x86-64", "x86-64-Intel_Xeon_Gold_6142"]),
        ("aarch64", "", ["arm64"]),
        ("armv7l", "", ["arm", "arm-32"]),
        ("riscv64", "", ["riscv64"]),
    ],
)
def test_processor_goes_from_general_to_exact(name: str, cpuinfo: str, expected: list[str]) -> None:
    assert machine.cpu_names(name, cpuinfo) == expected


def test_boot_time_is_read_from_the_kernel() -> None:
    assert machine.boot_time("cpu 1 2\nbtime 1700000000\n") == 1_700_000_000
    assert machine.boot_time("") is None


def test_what_cannot_be_counted_is_zero(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    assert machine.file_count(tmp_path) == 1
    assert machine.file_count(tmp_path / "absent") == 0


def test_the_mount_of_a_directory_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert machine.mount_point(tmp_path / "a" / "b") == machine.mount_point(tmp_path)
    assert machine.disk(machine.mount_point(tmp_path))["size_mb"] > 0


def test_this_machine_has_every_fact() -> None:
    facts = machine.read_machine()
    assert facts.cores >= 1
    assert len(facts.os_names) >= 2
    assert all((facts.hostname, facts.cpu, facts.cpu_name, facts.gpu))


SYSCTL = """hw.model: MacBookPro18,3
hw.memsize: 17179869184
hw.logicalcpu: 10
machdep.cpu.brand_string: Apple M1 Pro
kern.boottime: { sec = 1716000000, usec = 123456 } Sat May 18 04:40:00 2024
"""
SW_VERS = "ProductName:\t\tmacOS\nProductVersion:\t\t14.5\nBuildVersion:\t\t23F79\n"
DISPLAYS = """Graphics/Displays:

    Apple M1 Pro:

      Chipset Model: Apple M1 Pro
      Type: GPU
      Vendor: Apple (0x106b)

    AMD Radeon Pro 5500M:

      Chipset Model: AMD Radeon Pro 5500M
      Vendor: AMD (0x1002)
      Device ID: 0x7340
"""
WINDOWS = """{"caption":"Microsoft Windows 10 Pro","version":"10.0.19045","product_type":1,
"boot":"2024-05-18T02:40:00+00:00","memory":17070342144,"cpu":"Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz",
"gpus":["PCI\\\\VEN_10DE&DEV_1C82&SUBSYS_11BF1043&REV_A1\\\\4&1","ROOT\\\\BASICDISPLAY\\\\0000"]}"""


def mac(command: Sequence[str]) -> str:
    return {"sysctl": SYSCTL, "sw_vers": SW_VERS, "system_profiler": DISPLAYS}[command[0]]


def test_a_mac_has_every_fact() -> None:
    facts = machine.read_machine("darwin", mac)
    assert facts.os_names == ["Mac", "Mac-14", "Mac-14.5", "Mac-14.5-23F79"]
    assert facts.cpu[-1].endswith("-Apple_M1_Pro")
    assert (facts.cpu_name, facts.cores, facts.ram_mib) == ("Apple M1 Pro", 10, 16384)
    assert facts.gpu == ["1002", "1002:7340", "apple", "apple:m1-pro"]
    assert (facts.boot_time, facts.model) == (1716000000, "MacBookPro18,3")


def test_an_older_mac_is_called_by_two_numbers() -> None:
    assert machine_mac.os_names("ProductVersion: 10.15.7\n") == ["Mac", "Mac-10.15", "Mac-10.15.7"]


def test_a_windows_machine_has_every_fact() -> None:
    facts = machine.read_machine("win32", lambda command: WINDOWS)
    assert facts.os_names == ["Windows", "Windows-10", "Windows-10-19045"]
    assert facts.cpu[-1].endswith("-Intel_Core_i7-8700")
    assert facts.ram_mib == 16279
    assert facts.gpu == ["10de", "10de:1c82"]
    assert facts.boot_time == 1716000000


def test_a_windows_server_says_so() -> None:
    found = {"caption": "Microsoft Windows Server 2022 Datacenter", "version": "10.0.20348", "product_type": 3}
    assert machine_windows.os_names(found) == [
        "Windows",
        "Windows-Server",
        "Windows-Server-2022",
        "Windows-Server-2022-20348",
    ]


@pytest.mark.parametrize(("system", "names"), [("darwin", ["Mac"]), ("win32", ["Windows"])])
@pytest.mark.parametrize("text", ["", "no such command", "[]"])
def test_a_machine_that_tells_nothing_is_a_machine(system: str, names: list[str], text: str) -> None:
    facts = machine.read_machine(system, lambda command: text)
    assert (facts.os_names, facts.gpu, facts.ram_mib, facts.boot_time) == (names, ["none"], 0, None)
    assert facts.cores >= 1


def test_disks_and_sensors_of_linux(tmp_path: Path) -> None:
    for name, rotational in (("nvme0n1", "0"), ("sda", "1"), ("loop0", "0")):
        (tmp_path / name / "queue").mkdir(parents=True)
        (tmp_path / name / "queue" / "rotational").write_text(f"{rotational}\n")
        if name != "loop0":
            (tmp_path / name / "device").mkdir()
    assert machine.solid_disks(tmp_path) == ["nvme0n1"]
    (tmp_path / "thermal_zone0").mkdir()
    (tmp_path / "thermal_zone0" / "temp").write_text("45500\n")
    (tmp_path / "thermal_zone0" / "type").write_text("x86_pkg_temp\n")
    (tmp_path / "thermal_zone1").mkdir()
    assert machine.temperatures(tmp_path) == {"x86_pkg_temp": 45.5}
    assert machine.solid_disks(tmp_path / "absent") == []


def test_a_command_that_is_not_there_says_nothing() -> None:
    assert machine._printed(["/no/such/command"]) == ""
