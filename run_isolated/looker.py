"""A process beside a run that looks whether files of the cache are what they were.

Runs fresh and single-threaded (see `COMMAND_LINE`). Knows no tree: pieces of facts come in on stdin, and for each a
line goes out on stdout, which is empty when all of them hold, and else "0". The invariant: it changes nothing, and ends
when stdin does. Imports little: it is to be there before the work is done.
"""

from __future__ import annotations

import os
import struct
import sys

from isolate.cas.cache_names import differing

# As the launcher does it. Arguments: the folder of this package, a descriptor of the files of one algorithm.
_CODE = "import sys as s; s.path.append(s.argv[1]); from run_isolated.looker import main as m; m(int(s.argv[2]))"
COMMAND_LINE = ("-I", "-S", "-c", _CODE)
_HEADER = struct.Struct("<Q16sq")  # bytes of facts, how each is packed, and the ctime that none may have


def batch_of(packed: bytes, layout: struct.Struct, before_ns: int) -> bytes:
    """Return a piece of facts as it is sent."""
    return _HEADER.pack(len(packed), layout.format.encode(), before_ns) + packed


def main(files: int) -> None:
    """Look at piece after piece."""
    with os.fdopen(0, "rb") as incoming:
        while len(header := incoming.read(_HEADER.size)) == _HEADER.size:
            length, layout, before_ns = _HEADER.unpack(header)
            packed = incoming.read(length)
            if len(packed) < length:
                return  # whoever sent it is gone
            facts = struct.iter_unpack(layout.rstrip(b"\0"), packed)
            sys.stdout.write("0\n" if differing(files, facts, before_ns) else "\n")
            sys.stdout.flush()
