"""Tickets: what opens, and everything that does not."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from isolate.cas.digest import Namespace
from isolate.errors import InvalidInput
from server.tickets import LIFETIME_S, SECRET_FILE, SKEW_S, Purpose, Ticket, TicketOffice
from tests.clock import ManualClock

NAMESPACE = Namespace.parse("sha256-deflate")
TICKET = Ticket(NAMESPACE, NAMESPACE.blob(b"content"), is_isolated=True)


@pytest.fixture
def office(clock: ManualClock) -> TicketOffice:
    return TicketOffice(bytes(32), clock)


def test_a_ticket_opens_to_what_was_put_in_again_and_again(office: TicketOffice) -> None:
    for purpose in Purpose:
        text = office.issue(TICKET, purpose)
        assert office.redeem(text, purpose) == office.redeem(text, purpose) == TICKET


def test_the_form_is_that_of_2020(office: TicketOffice) -> None:
    text = office.issue(TICKET, Purpose.INLINE)
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert "=" not in text
    assert data[0] == 1
    assert json.loads(data[1:-32]) == {
        "_i": "1700000000000",
        "d": TICKET.blob.digest.hex(),
        "i": "1",
        "n": "sha256-deflate",
        "s": "7",
    }


@pytest.mark.parametrize("issued", Purpose)
@pytest.mark.parametrize("used", Purpose)
def test_a_ticket_is_bound_to_its_purpose(office: TicketOffice, issued: Purpose, used: Purpose) -> None:
    text = office.issue(TICKET, issued)
    if issued is used:
        assert office.redeem(text, used) == TICKET
    else:
        with pytest.raises(InvalidInput, match="altered, or is for another call"):
            office.redeem(text, used)


def test_every_altered_letter_is_noticed(office: TicketOffice) -> None:
    text = office.issue(TICKET, Purpose.INLINE)
    for at, letter in enumerate(text):
        for other in {"A", "B", "-", "=", "é", chr(ord(letter) ^ 1)} - {letter}:
            with pytest.raises(InvalidInput):
                office.redeem(text[:at] + other + text[at + 1 :], Purpose.INLINE)


@pytest.mark.parametrize("text", ["", "A", "AQ", "A" * 40, "A" * 100_000, "====", "\0", "ü" * 50])
def test_noise_is_no_ticket(office: TicketOffice, text: str) -> None:
    with pytest.raises(InvalidInput, match="not one of this server"):
        office.redeem(text, Purpose.INLINE)


def test_it_expires_after_its_last_moment_not_at_it(office: TicketOffice, clock: ManualClock) -> None:
    text = office.issue(TICKET, Purpose.INLINE)
    clock.advance(LIFETIME_S)
    assert office.redeem(text, Purpose.INLINE) == TICKET
    clock.advance(0.01)
    with pytest.raises(InvalidInput, match="has expired"):
        office.redeem(text, Purpose.INLINE)


def test_a_clock_that_was_ahead_is_forgiven_for_half_a_minute() -> None:
    start_s = ManualClock().now()
    ahead = ManualClock()
    ahead.advance(SKEW_S)
    text = TicketOffice(bytes(32), ahead).issue(TICKET, Purpose.INLINE)
    assert TicketOffice(bytes(32), ManualClock()).redeem(text, Purpose.INLINE) == TICKET
    ahead.advance(0.01)
    late = TicketOffice(bytes(32), ahead).issue(TICKET, Purpose.INLINE)
    assert ahead.now() > start_s + SKEW_S
    with pytest.raises(InvalidInput, match="from the future"):
        TicketOffice(bytes(32), ManualClock()).redeem(late, Purpose.INLINE)


def test_the_secret_is_kept_and_is_nobody_elses(tmp_path: Path, clock: ManualClock) -> None:
    text = TicketOffice.open(tmp_path, clock).issue(TICKET, Purpose.INLINE)
    path = tmp_path / SECRET_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert TicketOffice.open(tmp_path, clock).redeem(text, Purpose.INLINE) == TICKET
    path.write_text("")  # as after a crash long ago
    with pytest.raises(InvalidInput):
        TicketOffice.open(tmp_path, clock).redeem(text, Purpose.INLINE)
    assert len(path.read_text().strip()) == 64
    path.write_text("no hex")
    with pytest.raises(InvalidInput, match="is damaged"):
        TicketOffice.open(tmp_path, clock)
