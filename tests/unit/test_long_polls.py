"""When long polls end."""

from __future__ import annotations

import random
from functools import partial

from swarming.long_polls import LEAST, PARTS, SPREAD, LongPolls


class Crowd:
    """Polls that began at once, and which of them were ended."""

    def __init__(self, count: int) -> None:
        self.polls = LongPolls(random.Random(1))
        self.over: list[int] = []
        for number in range(count):
            self.polls.add(partial(self.over.append, number), 0.0, 30.0)

    def ended(self) -> int:
        return len(self.over)


def test_polls_that_began_together_end_apart_and_none_late() -> None:
    crowd = Crowd(LEAST)
    counts = []
    for now_s in (30 * (1 - SPREAD) - 0.01, 27.0, 30.0):
        crowd.polls.release(now_s)
        counts.append(crowd.ended())
    assert counts[0] == 0
    assert LEAST / 4 < counts[1] < 3 * LEAST / 4
    assert counts[2] == LEAST


def test_few_end_at_a_time_and_all_in_the_end() -> None:
    crowd = Crowd(LEAST + 1)
    crowd.polls.release(60.0)
    assert crowd.ended() == LEAST
    crowd.polls.release(60.0)
    assert crowd.ended() == LEAST + 1
    many = Crowd(2 * LEAST * PARTS)
    many.polls.release(60.0)
    assert many.ended() == 2 * LEAST
    many.polls.release_all()
    assert sorted(many.over) == list(range(2 * LEAST * PARTS))
