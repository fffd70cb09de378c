"""Free memory goes back to the system when nothing is going on, and only then."""

from __future__ import annotations

from server.spare_memory import LOOK_S, MAX_PAUSE_LOOKS, QUIET_BYTES, WORTHWHILE_BYTES, SpareMemory, own_bytes, trim

MIB = 1 << 20


class Process:
    """A process whose memory is what a test says; giving back leaves `used_bytes`."""

    def __init__(self) -> None:
        self.moved_bytes, self.own_bytes, self.used_bytes, self.given_back = 0, 40 * MIB, 40 * MIB, 0
        self.memory = SpareMemory(lambda: self.moved_bytes, lambda: self.own_bytes, self.give_back)

    def give_back(self) -> None:
        self.given_back += 1
        self.own_bytes = self.used_bytes


async def test_what_a_burst_left_is_given_back_at_the_first_quiet_look_and_once() -> None:
    process = Process()
    await process.memory.look()
    assert process.given_back == 1  # nobody knows yet how much is in use
    process.own_bytes, process.moved_bytes = 200 * MIB, 750 * MIB
    await process.memory.look()
    assert process.given_back == 1
    for _ in range(3):
        process.moved_bytes += QUIET_BYTES - 1
        await process.memory.look()
    assert (process.given_back, process.own_bytes) == (2, 40 * MIB)


async def test_a_busy_server_is_left_alone_however_long() -> None:
    process = Process()
    for _ in range(100):
        process.own_bytes += MIB
        process.moved_bytes += QUIET_BYTES
        await process.memory.look()
    assert process.given_back == 0


async def test_what_was_in_use_at_a_quiet_moment_is_given_back_within_a_minute_of_its_end() -> None:
    process = Process()
    await process.memory.look()
    process.own_bytes = process.used_bytes = 150 * MIB
    for _ in range(1_000):  # somebody sends nothing, and keeps what he has sent
        await process.memory.look()
    assert process.given_back < 100
    process.used_bytes = 40 * MIB
    for _ in range(1 + MAX_PAUSE_LOOKS):
        await process.memory.look()
    assert process.own_bytes == 40 * MIB
    assert (1 + MAX_PAUSE_LOOKS) * LOOK_S <= 60.0


async def test_memory_that_went_by_itself_counts_as_given_back() -> None:
    process = Process()
    process.own_bytes = process.used_bytes = 150 * MIB
    await process.memory.look()
    process.own_bytes = process.used_bytes = 60 * MIB
    await process.memory.look()
    assert process.given_back == 1
    process.own_bytes = 60 * MIB + WORTHWHILE_BYTES
    await process.memory.look()
    assert (process.given_back, process.own_bytes) == (2, 60 * MIB)


async def test_where_nothing_can_be_given_back_nothing_happens() -> None:
    asked: list[int] = []

    def own_bytes() -> int:
        asked.append(1)
        return 500 * MIB

    await SpareMemory(lambda: 0, own_bytes, None).look()
    assert asked == []  # not even how much there is


async def test_this_process_can_be_asked() -> None:
    give_back = trim()
    memory = SpareMemory(lambda: 0, own_bytes, give_back)
    await memory.look()
    assert own_bytes() > MIB
    assert give_back is None or give_back() in {0, 1}
