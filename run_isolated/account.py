"""The account a command acts as: LUCI_CONTEXT with another default.

Knows the one key of that file it changes. The invariant: the caller's file stays as it is; the command gets its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from isolate.errors import InternalFailure

VARIABLE = "LUCI_CONTEXT"


def switched(env: Mapping[str, str], account: str, destination: Path) -> dict[str, str]:
    """Return `env` with a LUCI_CONTEXT at `destination` whose default account is `account`.

    An account that the file does not know means that there is no default any more. Raises InternalFailure.
    """
    given = env.get(VARIABLE, "")
    try:
        context = json.loads(Path(given).read_text(encoding="utf-8")) if given else {}
        local = dict(context.get("local_auth") or {})
        known = {item.get("id") for item in local.get("accounts") or []}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InternalFailure(f"Cannot switch to the account {account!r}: {VARIABLE} {given!r}: {error}") from error
    local.pop("default_account_id", None)
    if account in known:
        local["default_account_id"] = account
    if "local_auth" in context:
        context = context | {"local_auth": local}
    text = json.dumps(context, sort_keys=True).encode()
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)  # it holds a secret
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return {**env, VARIABLE: str(destination)}
