"""Error replies become errors."""

from __future__ import annotations

import json

import pytest

from isolate import errors
from isolate.choosing import failures
from isolate.problem import error_of, problem_of
from isolate.storing import upload_errors

URL = "http://127.0.0.1:1"


@pytest.mark.parametrize(("status", "kind"), [
    (301, errors.Refused), (400, errors.Rejected), (401, errors.Refused), (403, errors.Refused),
    (404, errors.NotFound), (409, errors.Stale), (413, errors.TooLarge), (418, errors.Refused),
    (429, errors.Unavailable), (500, errors.Unavailable),
    (502, errors.Unavailable), (503, errors.Unavailable), (507, errors.NoSpace), (599, errors.Unavailable),
])  # fmt: skip
def test_statuses(status: int, kind: type[errors.IsolateError]) -> None:
    error = error_of(status, b'{"error": {"code": "c", "message": "Too many cooks"}}', URL)
    assert type(error) is kind
    assert "Too many cooks" in str(error)
    assert str(status) in str(error_of(status, b"<html>", URL))
    if isinstance(error, errors.Refused):
        assert error.status == status


def test_a_lost_lease_has_its_own_code() -> None:
    error = error_of(409, b'{"error": {"code": "lease_lost", "message": "Gone"}}', URL)
    assert (type(error), str(error)) == (errors.LeaseLost, "Gone")
    error = error_of(409, b'{"error": "Gone", "code": "lease_lost"}', URL)  # as the API for bots spells it
    assert (type(error), str(error)) == (errors.LeaseLost, "Gone")


def test_lost_output_has_its_own_code() -> None:
    error = error_of(410, b'{"error": {"code": "output_lost", "message": "Damaged"}}', URL)
    assert (type(error), str(error)) == (errors.OutputLost, "Damaged")
    assert type(error_of(410, b"<html>", URL)) is errors.Refused


def test_how_long_to_wait_is_kept() -> None:
    error = error_of(503, b"", URL, 7.5)
    assert isinstance(error, errors.Unavailable)
    assert error.retry_after_s == 7.5


@pytest.mark.parametrize(("body", "message"), [
    ({"error": {"message": "a"}}, "a"), ({"error": "b"}, "b"), ({"text": "c"}, "c"), ({"error": "b", "text": "c"}, "b"),
])  # fmt: skip
def test_every_kind_of_server_is_understood(body: object, message: str) -> None:
    assert problem_of(json.dumps(body).encode())["message"] == message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff", b'{"error": 1}', b"[" * 100_000])
def test_other_bodies_say_nothing(body: bytes) -> None:
    assert problem_of(body) == {}


@pytest.mark.parametrize(
    ("status", "body", "doubt"),
    [(404, b"<html>", True), (301, b"", True), (404, b"{}", False), (403, b"<html>", False), (503, b"", False)],
)
def test_an_answer_that_is_not_ours_is_doubted(status: int, body: bytes, doubt: bool) -> None:
    assert str(error_of(status, body, URL)).endswith(f" answered {status}: is it the right server?") == doubt


@pytest.mark.parametrize(("status", "meaning"), [(429, "too many requests"), (503, "overloaded")])
def test_who_is_overloaded_without_words_is_said_to_be(status: int, meaning: str) -> None:
    assert meaning in str(error_of(status, b"<html>", URL))


def test_what_another_kind_of_server_dislikes_is_not_the_mistake_of_who_asked() -> None:
    assert type(error_of(400, b"<html>", URL)) is errors.Refused


def test_what_the_server_dislikes_in_an_upload_is_a_failed_upload_and_no_lost_input_file() -> None:
    error = error_of(400, b'{"error": {"code": "c", "message": "Too many cooks"}}', URL)
    with pytest.raises(errors.UploadFailed, match=r"^Too many cooks$"), failures(), upload_errors():
        raise error


def test_a_message_must_be_text() -> None:
    assert str(error_of(400, b'{"error": {"message": 5}}', URL)) == f"{URL} answered 400"
