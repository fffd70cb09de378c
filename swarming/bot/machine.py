"""What this machine is: operating system, processor, memory, disks, address.

Knows no bot and no server. Parsing is pure and apart from reading; a fact that cannot be had is left out or has a plain
fallback, never an error: a bot without a known graphics card is still a bot.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swarming.bot import machine_mac, machine_windows

Ask = Callable[[Sequence[str]], str]

MIB = 1 << 20
ASK_S = 30.0  # system_profiler takes several seconds
MAX_COUNTED = 5000  # more files than that in one directory are just "many", and counting them with every poll costs
DISPLAY_CLASS = "0x03"  # PCI base class of display controllers
PUBLIC_ADDRESS = ("203.0.113.1", 9)  # documentation range: naming it makes the kernel pick a route, no packet is sent
CPU_FAMILY = {"x86_64": ("x86", 64), "amd64": ("x86", 64), "i686": ("x86", 32), "i386": ("x86", 32)}
CPU_FAMILY |= {"aarch64": ("arm64", 64), "arm64": ("arm64", 64), "armv7l": ("arm", 32), "armv6l": ("arm", 32)}


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts that do not change while a process lives."""

    hostname: str
    os_names: list[str]  # from general to exact: Linux, Debian, Debian-12
    cpu: list[str]
    cpu_name: str
    cores: int
    gpu: list[str]
    ram_mib: int
    boot_time: float | None  # epoch seconds
    has_kvm: bool = False
    in_container: bool = False
    ssd: list[str] = field(default_factory=list)
    model: str = ""  # as its maker calls it


def read_machine(system: str = sys.platform, ask: Ask | None = None) -> Machine:
    """Look at the machine this process runs on; `ask` runs a command and returns what it prints, "" when it fails."""
    run = ask or _printed
    if system == "darwin":
        return _mac(run)
    if system == "win32":
        return _windows(run)
    cpuinfo = _text("/proc/cpuinfo")
    return Machine(
        hostname=short_hostname(),
        os_names=os_names(platform.system(), _text("/etc/os-release"), platform.release()),
        cpu=cpu_names(platform.machine(), cpuinfo),
        cpu_name=_cpu_model(cpuinfo) or platform.processor() or platform.machine(),
        cores=usable_cores(),
        gpu=_gpus(Path("/sys/bus/pci/devices")),
        ram_mib=_ram_mib(),
        has_kvm=os.access("/dev/kvm", os.R_OK | os.W_OK),
        in_container=Path("/.dockerenv").exists() or Path("/run/.containerenv").exists(),
        boot_time=boot_time(_text("/proc/stat")),
        ssd=solid_disks(Path("/sys/block")),
    )


def _mac(ask: Ask) -> Machine:
    values = machine_mac.sysctl_values(ask(machine_mac.COMMANDS["sysctl"]))
    brand = values.get("machdep.cpu.brand_string", "")
    cores = values.get("hw.logicalcpu", "")
    return Machine(
        hostname=short_hostname(),
        os_names=machine_mac.os_names(ask(machine_mac.COMMANDS["sw_vers"])),
        cpu=cpu_names(platform.machine(), f"model name: {brand}" if brand else ""),
        cpu_name=brand or platform.machine(),
        cores=int(cores) if cores.isdigit() else usable_cores(),
        gpu=machine_mac.gpus(ask(machine_mac.COMMANDS["displays"])),
        ram_mib=machine_mac.ram_mib(values),
        boot_time=machine_mac.boot_time(values),
        model=values.get("hw.model", ""),
    )


def _windows(ask: Ask) -> Machine:
    values = machine_windows.values(ask(machine_windows.COMMAND))
    brand = str(values.get("cpu") or "").strip()
    return Machine(
        hostname=short_hostname(),
        os_names=machine_windows.os_names(values),
        cpu=cpu_names(platform.machine(), f"model name: {brand}" if brand else ""),
        cpu_name=brand or platform.machine(),
        cores=usable_cores(),
        gpu=machine_windows.gpus(values),
        ram_mib=machine_windows.ram_mib(values),
        boot_time=machine_windows.boot_time(values),
    )


def _printed(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def solid_disks(blocks: Path) -> list[str]:
    """Return the disks of a Linux machine that have no moving parts."""
    with contextlib.suppress(OSError):
        return sorted(
            block.name
            for block in blocks.iterdir()
            if (block / "device").exists() and _text(block / "queue" / "rotational").strip() == "0"
        )
    return []


def temperatures(zones: Path) -> dict[str, float]:
    """Return what the sensors of a Linux machine say, in degrees Celsius."""
    found: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for zone in sorted(zones.glob("thermal_zone*")):
            text = _text(zone / "temp").strip()
            if re.fullmatch(r"-?\d+", text):
                found[_text(zone / "type").strip() or zone.name] = int(text) / 1000
    return found


def short_hostname() -> str:
    """Return the host name up to the first dot: the id of a bot that was given none."""
    return socket.gethostname().partition(".")[0] or "localhost"


def os_names(system: str, os_release: str, kernel_release: str) -> list[str]:
    """Return the operating system from general to exact, at least two values: `Linux`, `Ubuntu`, `Ubuntu-22.04`."""
    if system != "Linux":
        names = {"Darwin": "Mac"}
        return [names.get(system, system or "Unknown"), f"{names.get(system, system)}-{kernel_release}"]
    fields = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', os_release, re.MULTILINE))
    name = re.sub(r"[^0-9A-Za-z.]+", "", fields.get("ID", "").capitalize())
    if not name:
        return ["Linux", f"Linux-{kernel_release}"]
    version = fields.get("VERSION_ID", "")
    return ["Linux", name, f"{name}-{version}"] if version else ["Linux", name]


def cpu_names(machine: str, cpuinfo: str) -> list[str]:
    """Return the processor from general to exact: `x86`, `x86-64`, `x86-64-Xeon_Gold_6142`."""
    family, bits = CPU_FAMILY.get(machine.lower(), (machine.lower() or "unknown", 0))
    names = [family]
    if bits and not family.endswith(str(bits)):
        names.append(f"{family}-{bits}")
    model = _cpu_model(cpuinfo)
    if model:
        words = re.sub(r"\((R|TM)\)|@.*|\bCPU\b|\bProcessor\b", " ", model, flags=re.IGNORECASE)
        exact = "_".join(re.findall(r"[0-9A-Za-z.\-]+", words))
        names.append(f"{names[-1]}-{exact}"[:256])
    return names


def _cpu_model(cpuinfo: str) -> str:
    found = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def usable_cores() -> int:
    """Return how many processors this process may use, at least one."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _gpus(devices: Path) -> list[str]:
    """Return display controllers as `vendor` and `vendor:device` in hex, or `none`."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for device in devices.iterdir():
            if _text(device / "class").startswith(DISPLAY_CLASS):
                vendor, model = (_text(device / name).strip()[2:] for name in ("vendor", "device"))
                found |= {vendor, f"{vendor}:{model}"} if vendor and model else set()
    return sorted(found) or ["none"]


def _ram_mib() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB
    except (ValueError, OSError):
        return 0


def boot_time(stat: str) -> float | None:
    """Return when the machine started, from the text of /proc/stat."""
    found = re.search(r"^btime (\d+)$", stat, re.MULTILINE)
    return float(found[1]) if found else None


def python_versions() -> list[str]:
    """Return this interpreter's version from general to exact: `3`, `3.11`, `3.11.2`."""
    major, minor, patch = platform.python_version_tuple()
    return [major, f"{major}.{minor}", f"{major}.{minor}.{patch}"]


def local_address() -> str:
    """Return the address this machine would talk to the internet from, `0.0.0.0` when there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(PUBLIC_ADDRESS)
        except OSError:
            return "0.0.0.0"  # noqa: S104 - the protocol's word for "unknown", nothing listens there
        return str(probe.getsockname()[0])


def disk(mount: str) -> dict[str, float]:
    """Return size and free space of a file system, in MiB."""
    usage = shutil.disk_usage(mount)
    return {"free_mb": round(usage.free / MIB, 1), "size_mb": round(usage.total / MIB, 1)}


def mount_point(path: Path) -> str:
    """Return where the file system that holds `path` is mounted; `path` need not exist yet."""
    place = path.resolve()
    while not place.is_mount():  # which a path that does not exist is not
        place = place.parent
    return str(place)


def file_count(directory: Path) -> int:
    """Return how many entries `directory` has, at most MAX_COUNTED; 0 when it cannot be read."""
    try:
        with os.scandir(directory) as entries:
            return sum(1 for _ in itertools.islice(entries, MAX_COUNTED))
    except OSError:
        return 0


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
