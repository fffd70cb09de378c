"""HTML that cannot be broken out of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.pages.html import MISSING, Html, facts, join, link, outside_link, table, tag


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "<b>", tag("i", "&")) == "<p>&lt;b&gt;<i>&amp;</i></p>"
    assert join(["a<", None, Html("<br>")], ", ") == "a&lt;, <br>"


@given(st.text())
def test_no_text_leaves_its_place(text: str) -> None:
    for made in (tag("p", text), tag("p", "x", title=text), link(text, "/task", id=text)):
        inner = made.removeprefix("<p>").removeprefix("<a ").removesuffix("</p>").removesuffix("</a>")
        assert inner.count("<") <= 1
        assert "<script" not in made


def test_attributes_that_are_none_are_left_out() -> None:
    assert tag("a", "x", href=None, class_="y", aria_label='"') == '<a class="y" aria-label="&quot;">x</a>'
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_links_quote_their_query() -> None:
    assert link("x", "/bot", id="a&b c/d") == '<a href="/bot?id=a%26b%20c%2Fd">x</a>'


def test_only_the_web_is_linked_outside() -> None:
    assert outside_link("r", "https://example.com/?a=1&b").startswith("<a href=")
    for url in ("javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:x", "data:text/html,x", "http://[", "//x"):
        assert outside_link("r", url) == "r"


def test_an_empty_table_says_so() -> None:
    assert table(("A",), (), "Nothing.") == '<p class="empty">Nothing.</p>'
    assert "<td>1</td>" in table(("A",), [(None, (1,))], "Nothing.")


def test_facts_that_are_not_known_are_left_out() -> None:
    shown = facts([("a", None), ("b", ""), ("c", MISSING), ("d", 0)])
    assert shown.count("<tr>") == 1
    assert "<td>0</td>" in shown
