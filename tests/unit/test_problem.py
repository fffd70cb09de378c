"""Errors as statuses, codes and bodies."""

from __future__ import annotations

import inspect

import pytest

from isolate import errors
from isolate.cas.digest import Blob
from server.problem import code_of, error_body, error_headers, status_of

BLOB = Blob(b"\1" * 32, 5)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidTask("Bad"), 400, "invalid"),
        (errors.InvalidDigest("Bad"), 400, "invalid_digest"),
        (errors.TooLarge("Big"), 413, "too_large"),
        (errors.UploadCorrupt(BLOB, b"\2"), 400, "digest_mismatch"),
        (errors.StoredCorrupt(BLOB, b"\2"), 500, "stored_corrupt"),
        (errors.NotFound("No"), 404, "not_found"),
        (errors.ChunksMissing([b"\1"]), 409, "chunks_missing"),
        (errors.BlobsMissing([b"\1"]), 404, "blobs_missing"),
        (errors.OutputLost("Damaged"), 410, "output_lost"),
        (errors.LeaseLost("Gone"), 409, "lease_lost"),
        (errors.Stale("Old"), 409, "stale"),
        (errors.Unavailable("Later"), 503, "unavailable"),
        (errors.NoSpace("Full"), 507, "no_space"),
        (errors.Refused("No"), 403, "refused"),
        (errors.Refused("Who", status=401), 401, "refused"),
        (errors.InternalFailure("Oops"), 500, "internal"),
        (ValueError("secret"), 500, "internal"),
    ],
)
def test_status_and_code(error: Exception, status: int, code: str) -> None:
    assert (status_of(error), code_of(error)) == (status, code)
    assert error_body(error)["error"]["code"] == code


def test_every_public_error_has_a_status() -> None:
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.InvalidInput):
            assert status_of(kind("x")) in {400, 413}


def test_a_foreign_error_says_nothing_of_itself() -> None:
    assert error_body(ValueError("secret")) == {
        "error": {"code": "internal", "message": "Internal error of the server"}
    }


def test_a_mismatch_names_both_digests() -> None:
    body = error_body(errors.UploadCorrupt(BLOB, b"\2" * 32))["error"]
    assert (body["digest"], body["found"]) == ("01" * 32, "02" * 32)


def test_missing_chunks_are_listed() -> None:
    assert error_body(errors.ChunksMissing([b"\1", b"\2"]))["error"]["missing"] == ["01", "02"]


def test_only_what_may_succeed_later_says_when() -> None:
    assert error_headers(errors.Unavailable("Later", retry_after_s=2.5)) == {"Retry-After": "3"}
    assert error_headers(errors.Unavailable("Later")) == {"Retry-After": "1"}
    assert error_headers(errors.NotFound("No")) == {}
