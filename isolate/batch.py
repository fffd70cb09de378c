"""The `*.isolated.gen.json` files of `batcharchive`: one tree each, as the arguments that would archive it.

Pure but for reading the files; knows no flags.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from isolate.errors import InvalidInput

VERSION = 1
MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Order:
    """One tree: `args` are flags of `archive`, to be read in `directory`."""

    source: str
    directory: Path
    args: tuple[str, ...]


def read_order(source: str) -> Order:
    """Return what the file `source` orders; raises InvalidInput."""
    try:
        with open(source, "rb") as file:
            record = json.loads(file.read(MAX_BYTES))
    except OSError as error:
        raise InvalidInput(f"Cannot read {source!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{source!r} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise InvalidInput(f"{source!r} holds no object")
    version, directory, args = record.get("version"), record.get("dir"), record.get("args")
    if type(version) is not int or version != VERSION:
        raise InvalidInput(f"{source!r} has version {version!r}, not {VERSION}")
    if not isinstance(directory, str) or not os.path.isdir(directory):
        raise InvalidInput(f"{source!r}: 'dir' is {directory!r}, not an existing directory")
    if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        raise InvalidInput(f"{source!r}: 'args' is not a list of strings")
    return Order(source, Path(directory).absolute(), tuple(args))
