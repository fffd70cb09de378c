"""JSON of people who mean harm, sent to the isolate API of 2020: values or InvalidInput, nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isolate.cas.digest import Namespace
from isolate.errors import InvalidInput
from server import isolate_wire as wire
from server.pages import browse
from server.tickets import Purpose, Ticket, TicketOffice
from tests.clock import ManualClock
from tests.examples import examples

OFFICE = TicketOffice(bytes(32), ManualClock())
NAMESPACE = Namespace.parse("default-gzip")
TICKET = OFFICE.issue(Ticket(NAMESPACE, NAMESPACE.blob(b"x"), is_isolated=False), Purpose.INLINE)
KEYS = ["items", "namespace", "digest", "size", "is_isolated", "offset", "upload_ticket", "content", "compression"]
TREE_KEYS = ["files", "includes", "h", "s", "m", "l", "t", "version", "algo", "command", "a/b", "../x", "\udc80"]
SCALARS = st.one_of(
    st.sampled_from([None, True, 0, -1, 2**70, 1.5, float("nan"), "1", "-1", "9" * 5000, "\udcff", "Zm8="]),
    st.sampled_from(["f" * 40, "F" * 40, "default", "blake3-zstd", "a/b", TICKET]), st.text(max_size=8),
)  # fmt: skip


def nested(keys: list[str]) -> st.SearchStrategy[Any]:
    names = st.one_of(st.sampled_from(keys), st.text(max_size=5))
    return st.recursive(
        SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=4)),
        max_leaves=6,
    )


def ask_all(body: bytes) -> None:
    for parse in (
        lambda fields: wire.lookup(fields, 1 << 30),
        wire.retrieval,
        lambda fields: (OFFICE.redeem(wire.ticket_text(fields), Purpose.INLINE), wire.content(fields)),
    ):
        try:
            assert parse(wire.decode(body)) is not None
        except InvalidInput:
            continue


@examples(2_000)
@given(nested(KEYS))
def test_any_json(value: Any) -> None:
    ask_all(json.dumps(value).encode())


@examples(800)
@given(st.binary(max_size=200))
def test_any_bytes(noise: bytes) -> None:
    ask_all(noise)


@examples(800)
@given(st.integers(0, len(TICKET)), st.text(max_size=3), st.integers(0, 3))
def test_any_change_of_a_ticket(at: int, text: str, dropped: int) -> None:
    changed = TICKET[:at] + text + TICKET[at + dropped :]
    try:
        OFFICE.redeem(changed, Purpose.INLINE)
    except InvalidInput:
        return
    assert changed == TICKET


@examples(800)
@given(nested(TREE_KEYS), st.binary(max_size=20))
def test_any_tree_is_a_page_or_none(value: Any, noise: bytes) -> None:
    content = json.dumps(value).encode()
    for body in (b'{"files":' + content + b"}", b'{"files":{"a":' + content + b"}}", b"{" + noise):
        markup = browse._tree_page(body, "default")
        assert markup is None or markup.encode("utf-8", "backslashreplace").startswith(b"<!doctype html>")
