"""Why a task waits: each reason, and which of several is named."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from swarming import matching, pending
from swarming.bots import BotInfo
from swarming.model import Attempt
from swarming.states import State
from tests.tasks import NOW, submission

EXECUTION = submission(1).execution
assert EXECUTION is not None
LINUX = (("os", ("linux",)), ("pool", ("default",)))
DIED = Attempt(run_id="r", try_number=1, bot_id="bot", state=State.BOT_DIED, offered_at=NOW)


def bot(bot_id: str = "bot", **fields: Any) -> tuple[BotInfo, matching.Traits]:
    info = BotInfo(bot_id=bot_id, session="s", **{"dimensions": LINUX, **fields})
    return info, matching.traits(info.dimensions)


def explain(*bots: tuple[BotInfo, matching.Traits], ahead: int = 0, **fields: Any) -> pending.Pending:
    assert EXECUTION is not None
    return pending.explain(replace(EXECUTION, **fields), bots, NOW, ahead, 100)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "ready"),
        ({"is_dead": True, "quarantined": "x"}, "dead"),
        ({"quarantined": "x", "maintenance": "y"}, "quarantined"),
        ({"maintenance": "y", "run_id": "r"}, "in maintenance"),
        ({"run_id": "r"}, "busy"),
        ({"state": {"lease_expiration_ts": NOW + 450}}, "leaves before it would be done"),
        ({"state": {"lease_expiration_ts": NOW + 451}}, "ready"),
        ({"dimensions": (("os", ("windows",)),), "is_dead": True}, "lacks os:linux, pool:default"),
    ],
)
def test_the_reason_of_a_bot(fields: dict[str, Any], reason: str) -> None:
    found = explain(bot(**fields))
    assert found.bots == (("bot", reason),)
    assert found.reasons == ((reason, 1),)
    assert (found.ready, found.fitting) == (int(reason == "ready"), int("lacks" not in reason))
    assert found.capable == int("lacks" not in reason and "leaves" not in reason)


def test_a_bot_that_lost_a_try_and_one_without_a_session() -> None:
    assert explain(bot(), attempts=(DIED,)).bots == (("bot", "lost an earlier try of it"),)
    info, traits = bot()
    inputs = replace(EXECUTION.properties, inputs=pending_inputs())  # type: ignore[union-attr]  # asserted above
    found = explain((replace(info, session=""), traits), properties=inputs)
    assert found.bots == (("bot", "too old for the namespace of its inputs"),)


def test_a_bot_that_was_offered_it_has_not_lost_it() -> None:
    found = explain(bot(run_id="r2"), attempts=(replace(DIED, bot_id="other"), replace(DIED, state=State.PENDING)))
    assert found.bots == (("bot", "offered it just now"),)
    assert (found.capable, found.ready) == (1, 0)
    assert found.summary == "Offered to bot, which has not begun yet"


def pending_inputs() -> Any:
    from swarming.model import FilesRef

    return FilesRef("a" * 64, "", "blake3-zstd")


def test_the_nearest_come_first_and_lists_have_limits() -> None:
    far = [bot(f"far{n}", dimensions=(("pool", (f"p{n}",)),)) for n in range(60)]
    near = [bot(f"near{n}", dimensions=(("os", (f"o{n}",)), ("pool", ("default",)))) for n in range(30)]
    found = explain(*far, *near, bot("right", run_id="r"))
    assert (found.known, found.capable, len(found.bots)) == (91, 1, pending.MAX_BOTS)
    assert found.bots[0] == ("right", "busy")
    assert found.bots[30][0] == "near29"
    assert found.reasons == (("busy", 1), ("lacks os:linux", 30), ("lacks os:linux, pool:default", 60))


def test_the_summary() -> None:
    assert explain().summary == "No bot has ever come"
    assert explain(bot(dimensions=())).summary == "None of 1 bots has the dimensions asked for"
    assert explain(bot(), bot("b")).summary == "2 of 2 bots could run it, 2 of them now"
    busy = explain(bot(run_id="r"), ahead=100)
    assert busy.summary == "1 of 1 bots could run it, none of them now; at least 100 tasks of its queue go first"
    leaves = bot("late", state={"lease_expiration_ts": NOW + 30})
    assert explain(leaves).summary == "None of 1 bots may run it, though 1 have the dimensions asked for"
    assert explain(leaves, bot()).summary == "1 of 2 bots could run it, 1 of them now"
