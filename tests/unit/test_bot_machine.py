"""Facts about a machine, from texts of several."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarming.bot import machine

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
