"""Where something stands in a text: `file:line:column`, as editors count.

Pure; knows no grammar. The invariants: a place costs nothing until somebody asks for it; asking for many, in the order
they stand or backwards, costs one pass over the text.
"""

from __future__ import annotations

from typing import Self

from isolate.errors import InvalidIsolateFile

MAX_BYTES = 4 << 20  # of a file; whether its text is too long is for who reads that
MAX_SHOWN = 100  # letters of what is quoted from a file
MAX_PATH = 4096  # letters of a path on any system we know
BLANK = " \t\f\ufeff"  # what may stand before the first expression of a line


def place_in(text: str, at: int, name: str) -> str:
    """Return the place of the character `at` in `text`."""
    return f"{name}:{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


def decoded(content: bytes, name: str) -> str:
    """Return the text that the bytes of a file are; raises InvalidIsolateFile with the place of what is not UTF-8.

    More than MAX_BYTES are refused: whoever reads a file needs to read no more than one byte beyond.
    """
    if len(content) > MAX_BYTES:
        raise InvalidIsolateFile(f"{name}:1:1: A .isolate of more than {MAX_BYTES} bytes is too long")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        raise InvalidIsolateFile(f"{place_in(before, len(before), name)}: not UTF-8 text") from error


def shortened(text: str, most: int = MAX_SHOWN) -> str:
    """Return `text`, or the beginning of one that is too long for a line."""
    return text if len(text) <= most else f"{text[:most]}…"


def shortened_path(path: str) -> str:
    """Return `path`, or the beginning of one that is longer than any there is."""
    return shortened(path, MAX_PATH)


class Source:
    """The text of one file, to tell where in it something stands."""

    def __init__(self, text: str, name: str) -> None:
        self._lines = text.removeprefix("\ufeff").split("\n")
        self._name = name
        self._first = next(
            (number for number, line in enumerate(self._lines, 1) if _has_code(line)), len(self._lines) + 1
        )
        # Where the last place was: number of its line, that in UTF-8, bytes and characters before it.
        self._last: tuple[int, bytes, int, int] = (0, b"", 0, 0)

    def place(self, lineno: int, offset: int) -> str:
        """Return `file:line:column` of what Python has found `offset` bytes behind its margin."""
        line = self._lines[lineno - 1] if lineno <= len(self._lines) else ""
        # Python counts bytes of UTF-8, and from the margin that `_without_margin` removed.
        margin = len(line) - len(line.lstrip(BLANK)) if lineno <= self._first else 0
        number, encoded, at_byte, letters = self._last
        if number != lineno:
            encoded, at_byte, letters = line[margin:].encode("utf-8", "surrogatepass"), 0, 0
        between = encoded[min(offset, at_byte) : max(offset, at_byte)].decode("utf-8", "replace")
        letters += len(between) if offset >= at_byte else -len(between)
        self._last = lineno, encoded, offset, letters
        return f"{self._name}:{lineno}:{margin + letters + 1}"


def _has_code(line: str) -> bool:
    """Say whether a line is neither blank nor a comment."""
    line = line.strip(BLANK + "\r")
    return bool(line) and not line.startswith("#")


class Written(str):
    """A string of a `.isolate` that knows where it stands, for errors that are found when it is used."""

    __slots__ = ("_at", "_source")
    _at: tuple[int, int]
    _source: Source

    def __new__(cls, text: str, source: Source, lineno: int, offset: int) -> Self:
        self = super().__new__(cls, text)
        self._source, self._at = source, (lineno, offset)
        return self

    @property
    def place(self) -> str:
        """Where it stands, as `file:line:column`."""
        return self._source.place(*self._at)

    def meaning(self, text: str) -> Written:
        """Return `text`, which is what is meant by what is written here."""
        return Written(text, self._source, *self._at)


def named_by(text: str) -> str:
    """Return what to add to an error about what `text` names."""
    return f" (hint: it is named in {text.place})" if isinstance(text, Written) else ""


def place_of(text: str, otherwise: str) -> str:
    """Return where `text` is written, `otherwise` when nobody knows."""
    return text.place if isinstance(text, Written) else otherwise
