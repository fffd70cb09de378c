"""Upload tickets and bulk URLs: what this server promised somebody, signed so that nobody can alter it.

Knows no route and no store. A ticket is the base64url of `0x01 || public JSON || HMAC-SHA256`, the MAC over the
version, the public part and the purpose, each behind its length. The invariant: a ticket that opens was made with this
secret, for this purpose, at most LIFETIME_S ago. It may be used again until then: storing is idempotent.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from isolate.cas.digest import Blob, Namespace
from isolate.cas.files import atomic_file
from isolate.clock import Clock
from isolate.errors import InvalidInput

LIFETIME_S = 4 * 3600.0
SKEW_S = 30.0  # how far in the future a ticket may be from: a server before this one had another clock
SECRET_FILE = "isolate_upload_token"  # noqa: S105 - its name
SECRET_BYTES = 32
MAX_TICKET_CHARS = 2_000  # a namespace of 128 letters and SHA-512 make 600
_VERSION, _MAC_BYTES = b"\x01", 32


class Purpose(Enum):
    """What a ticket is good for; one for another purpose does not open."""

    INLINE = "datastore"
    FINALIZE = "gs"
    PUT = "put"
    GET = "get"
    PURGE = "purge"  # a form of ours, and no blob


@dataclass(frozen=True, slots=True)
class Ticket:
    """A blob somebody may store or fetch."""

    namespace: Namespace
    blob: Blob
    is_isolated: bool


class TicketOffice:
    """Issues tickets and opens them."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret, self._clock = secret, clock

    @classmethod
    def open(cls, directory: Path, clock: Clock) -> Self:
        """Use the secret kept in `directory`, made at the first call; tickets outlive the process."""
        path = directory / SECRET_FILE
        try:
            secret = bytes.fromhex(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            secret = b""
        except ValueError as error:
            raise InvalidInput(f"{path} is damaged: remove it, then uploads under way start over") from error
        if len(secret) != SECRET_BYTES:
            secret = secrets.token_bytes(SECRET_BYTES)
            with atomic_file(path, durable=True, mode=0o600) as file:
                file.write(secret.hex().encode() + b"\n")
        return cls(secret, clock)

    def issue(self, ticket: Ticket, purpose: Purpose) -> str:
        """Return `ticket` in the form that clients carry."""
        fields = {
            "_i": str(int(self._clock.now() * 1000)),
            "d": ticket.blob.digest.hex(),
            "i": "1" if ticket.is_isolated else "0",
            "n": ticket.namespace.name,
            "s": str(ticket.blob.size),
        }
        public = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
        return _base64(_VERSION + public + self._mac(public, purpose))

    def redeem(self, text: str, purpose: Purpose) -> Ticket:
        """Return the ticket that `text` is; raises InvalidInput for any other text, purpose or time."""
        public = self._public(text, purpose)
        try:
            fields = json.loads(public)
            issued_s = int(fields["_i"]) / 1000
            namespace = Namespace.parse(fields["n"])
            blob = Blob(namespace.algorithm.parse_hex(fields["d"]), int(fields["s"]))
            ticket = Ticket(namespace, blob, fields["i"] == "1")
        except (ValueError, KeyError, TypeError) as error:  # signed by us, so made by another version
            raise InvalidInput("Ticket cannot be read: ask for a new one") from error
        now_s = self._clock.now()
        if now_s > issued_s + LIFETIME_S:
            raise InvalidInput("Ticket has expired: ask for a new one")
        if issued_s > now_s + SKEW_S:
            raise InvalidInput("Ticket is from the future: ask for a new one")
        return ticket

    def _public(self, text: str, purpose: Purpose) -> bytes:
        """Return the signed part of `text`; raises InvalidInput."""
        try:
            if len(text) > MAX_TICKET_CHARS:
                raise ValueError
            data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
            if _base64(data) != text:  # the last letter has bits that nobody reads
                raise ValueError
        except (ValueError, binascii.Error) as error:
            raise InvalidInput("Ticket is not one of this server") from error
        public, mac = data[1:-_MAC_BYTES], data[-_MAC_BYTES:]
        if data[:1] != _VERSION or not hmac.compare_digest(mac, self._mac(public, purpose)):
            raise InvalidInput("Ticket is not one of this server, was altered, or is for another call")
        return public

    def _mac(self, public: bytes, purpose: Purpose) -> bytes:
        parts = (_VERSION, public, purpose.value.encode())
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._secret, message, "sha256")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
