"""What PowerShell says about a Windows machine.

Pure: one JSON text in, facts out; whoever runs the command is elsewhere. A fact that is not in the text is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

# One call for everything: starting PowerShell takes longer than all the answers together.
QUERY = (
    "$s = Get-CimInstance Win32_OperatingSystem; "
    "@{caption=$s.Caption; version=$s.Version; product_type=$s.ProductType; "
    "boot=$s.LastBootUpTime.ToUniversalTime().ToString('yyyy-MM-ddTHH:mm:ss+00:00'); "
    "memory=(Get-CimInstance Win32_ComputerSystem).TotalPhysicalMemory; "
    "cpu=@(Get-CimInstance Win32_Processor)[0].Name; "
    "gpus=@(Get-CimInstance Win32_VideoController | ForEach-Object { $_.PNPDeviceID })} | ConvertTo-Json -Compress"
)
COMMAND = ("powershell.exe", "-NoProfile", "-NonInteractive", "-Command", QUERY)
_SERVER = 1  # product types above are servers


def values(text: str) -> dict[str, Any]:
    """Return the answer, empty when it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def os_names(found: Mapping[str, Any]) -> list[str]:
    """Return the system from general to exact: `Windows`, `Windows-10`, `Windows-10-19045`."""
    caption, version = str(found.get("caption") or ""), str(found.get("version") or "")
    names = ["Windows"]
    name = re.search(r"Server \d+(?: R2)?|\b(?:XP|Vista|\d+(?:\.\d+)?)\b", caption)
    if name:
        names.append(f"Windows-{name[0].replace(' ', '-')}")
        build = version.rpartition(".")[2]
        names += [f"{names[-1]}-{build}"] if build.isdigit() else []
    if int(found.get("product_type") or 0) > _SERVER:
        names.insert(1, "Windows-Server")
    return list(dict.fromkeys(names))


def ram_mib(found: Mapping[str, Any]) -> int:
    """Return the memory of the machine."""
    memory = found.get("memory")
    return int(memory) >> 20 if isinstance(memory, int | float) else 0


def boot_time(found: Mapping[str, Any]) -> float | None:
    """Return when the machine started."""
    try:
        return datetime.fromisoformat(str(found.get("boot"))).timestamp()
    except ValueError:
        return None


def gpus(found: Mapping[str, Any]) -> list[str]:
    """Return graphics cards as `vendor` and `vendor:device` in hex, or `none`."""
    listed = found.get("gpus")
    names: set[str] = set()
    for device_id in listed if isinstance(listed, list) else []:
        match = re.match(r"PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})", str(device_id))
        if match:
            vendor, device = match[1].lower(), match[2].lower()
            names |= {vendor, f"{vendor}:{device}"}
    return sorted(names) or ["none"]
