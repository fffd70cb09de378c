"""swarming.live: the output of a running task, whole and in order."""

from __future__ import annotations

import asyncio

import pytest

from isolate.errors import Unavailable
from swarming.client import Output, SwarmingClient
from swarming.live import Indented, follow
from swarming.patience import Patience
from tests.clock import ManualClock


class Printing(SwarmingClient):
    """A task that prints one text per look, `None` being a look in vain and an error an interruption."""

    def __init__(self, *looks: str | Unavailable | None) -> None:
        self.looks = list(looks)
        self.printed = 0

    async def output(self, task_id: str, offset: int) -> Output:
        assert (task_id, offset) == ("a10", self.printed)
        if not self.looks:
            return Output("", offset, "COMPLETED")
        look = self.looks.pop(0)
        if isinstance(look, Unavailable):
            raise look
        self.printed += len((look or "").encode())
        return Output(look or "", self.printed, "RUNNING")


async def followed(client: Printing) -> str:
    clock, pieces = ManualClock(), list[str]()
    patience = Patience(clock, lambda text: pieces.append(f"<{text}>\n"), lambda: 0.5)
    printed = Indented(pieces.append)
    task = asyncio.ensure_future(follow(client, "a10", clock, patience, printed))
    while not task.done():
        await asyncio.sleep(0)
        clock.advance(1.0)
    await task
    printed.end()
    return "".join(pieces)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ((), ""),
        (("one\ntwo\n",), "  one\n  two\n"),
        (("on", "e\nt", None, "wo"), "  one\n  two\n"),
        (("\n", "\n\nx"), "  \n  \n  \n  x\n"),
        (("10%\r", "20%\r\n", "a\r\n", "b\r"), "  10%\n  20%\n  a\n  b\n"),  # as `collect` shows it
        (("50%", "\r", "\nx"), "  50%\n  x\n"),
        (("äö\n", None, None, "ü\n"), "  äö\n  ü\n"),
        ((None, Unavailable("gone"), "x\n"), "<gone; trying again for 6 minutes>\n<The server answers again>\n  x\n"),
    ],
)
async def test_everything_is_printed_once(looks: tuple[str | Unavailable | None, ...], expected: str) -> None:
    assert await followed(Printing(*looks)) == expected
