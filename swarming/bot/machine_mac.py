"""What `sysctl`, `sw_vers` and `system_profiler` say about a Mac.

Pure: texts in, facts out; whoever runs the commands is elsewhere. A text that is empty gives a fact that is left out.
"""

from __future__ import annotations

import re

COMMANDS = {
    "sysctl": ("sysctl", "hw.model", "hw.memsize", "hw.logicalcpu", "machdep.cpu.brand_string", "kern.boottime"),
    "sw_vers": ("sw_vers",),
    "displays": ("system_profiler", "SPDisplaysDataType"),
}


def sysctl_values(text: str) -> dict[str, str]:
    """Return what `sysctl NAME…` printed, by name."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in pairs if found}


def os_names(sw_vers: str) -> list[str]:
    """Return the system from general to exact: `Mac`, `Mac-14`, `Mac-14.5`, `Mac-14.5-23F79`."""
    fields = dict(re.findall(r"^(\w+):\s*(\S.*)$", sw_vers, re.MULTILINE))
    version, build = fields.get("ProductVersion", ""), fields.get("BuildVersion", "")
    if not version:
        return ["Mac"]
    parts = version.split(".")
    # Before 11 the second number was what people called the version.
    general = ".".join(parts[:2]) if parts[0] == "10" else parts[0]
    names = ["Mac", f"Mac-{general}", f"Mac-{version}"]
    return list(dict.fromkeys(names + ([f"Mac-{version}-{build}"] if build else [])))


def ram_mib(values: dict[str, str]) -> int:
    """Return the memory of the machine."""
    text = values.get("hw.memsize", "")
    return int(text) >> 20 if text.isdigit() else 0


def boot_time(values: dict[str, str]) -> float | None:
    """Return when the machine started, from `{ sec = 1716, usec = 0 } Mon …`."""
    found = re.search(r"sec = (\d+)", values.get("kern.boottime", ""))
    return float(found[1]) if found else None


def gpus(displays: str) -> list[str]:
    """Return graphics cards as `vendor` and `vendor:device`, as elsewhere in hex; chips of Apple by their name."""
    found: set[str] = set()
    for part in re.split(r"^\s*Chipset Model:", displays, flags=re.MULTILINE)[1:]:
        vendor = re.search(r"Vendor: .*?\(0x([0-9a-f]{4})\)", part)
        device = re.search(r"Device ID: 0x([0-9a-f]{4})", part)
        if vendor and device:
            found |= {vendor[1], f"{vendor[1]}:{device[1]}"}
        elif "Apple" in part:
            model = part.splitlines()[0].strip().lower().replace(" ", "-")
            found |= {"apple", f"apple:{model.removeprefix('apple-')}"}
    return sorted(found) or ["none"]
