"""Relative paths that cannot leave their root.

Knows no file system: it parses names, it never looks them up, so it cannot see links. The invariant: a `RelPath` joined
to a root and walked without following links stays below that root.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from isolate.errors import InvalidPath


class RelPath(str):
    r"""A POSIX relative path without empty, `.` or `..` parts; may hold surrogate-escaped bytes.

    Raises InvalidPath. `\` is an ordinary character here; a format that says otherwise converts before.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not text or text.startswith("/") or "\0" in text or not {"", ".", ".."}.isdisjoint(text.split("/")):
            raise InvalidPath(f"Path {text!r} is not a plain relative path")
        return super().__new__(cls, text)

    @property
    def parents(self) -> list[str]:
        """The directories above it, outermost first: `a/b/c` has `a` and `a/b`."""
        parts = self.split("/")[:-1]
        return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def are_plain(paths: Iterable[str]) -> bool:
    """Whether each of `paths` could be a `RelPath`; in one go, since trees have many."""
    text = "/".join(["", *paths, ""])  # each part of each path now stands between two slashes
    return not ("//" in text or "/./" in text or "/../" in text or "\0" in text)
