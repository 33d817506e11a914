from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from hyperseek.errors import InputError
from hyperseek.serve._batcher import Batcher, Busy


class Work:
    """Doubles numbers, and remembers what was computed together; it waits until it may go on."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, key: Hashable, items: list[int]) -> Sequence[int]:
        self.batches.append((key, items))
        assert self.go.wait(20)
        if any(item < 0 for item in items):
            raise InputError(f"no {min(items)}")
        return [2 * item for item in items]


def batcher(work: Work, **options: Any) -> Batcher[int, int]:
    return Batcher(work, **{"budget": 100, "longest_wait": 0.05, "most_waiting": 50, **options})


async def busy() -> tuple[Work, Batcher[int, int], asyncio.Task[int]]:
    """A batcher that computes a first request, which is held."""
    work = Work(held=True)
    own = batcher(work, longest_wait=0)
    first = asyncio.create_task(own.ask(1))
    while not work.batches:
        await asyncio.sleep(0.001)
    return work, own, first


async def test_what_comes_together_is_computed_together_by_key() -> None:
    work = Work()
    own = batcher(work)
    answers = await asyncio.gather(*(own.ask(number, "even" if number % 2 == 0 else "odd") for number in range(6)))
    assert answers == [0, 2, 4, 6, 8, 10]
    assert sorted(work.batches) == [("even", [0, 2, 4]), ("odd", [1, 3, 5])]
    await own.close()


async def test_a_batch_is_within_the_budget_with_padding_and_of_similar_lengths() -> None:
    work = Work()
    own = batcher(work)
    lengths = [10, 90, 9, 80, 11, 100]  # the first comes first
    answers = await own.ask_all(list(range(6)), None, lengths)
    assert answers == [0, 2, 4, 6, 8, 10]
    batches = [items for _, items in work.batches]
    assert batches[0] == [2, 0, 4]  # sorted by length
    for items in batches:
        assert len(items) == 1 or len(items) * max(lengths[item] for item in items) <= 100
    assert sorted(item for items in batches for item in items) == list(range(6))
    assert await own.ask(7, None, 1000, count=30) == 14  # more than the budget, by itself
    await own.close()


async def test_nobody_waits_forever_behind_others_that_are_more_alike() -> None:
    work, own, first = await busy()
    long = asyncio.create_task(own.ask(2, None, 90))
    await asyncio.sleep(0)
    short = [asyncio.create_task(own.ask(3, None, 1)) for _ in range(20)]
    await asyncio.sleep(0.01)
    work.go.set()
    await asyncio.gather(first, long, *short)
    assert work.batches[1][1] == [2]
    await own.close()


async def test_items_whose_client_has_gone_are_not_computed() -> None:
    work, own, first = await busy()
    gone, stays = asyncio.create_task(own.ask(2)), asyncio.create_task(own.ask(3))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert own.waiting == 2
    work.go.set()
    assert await asyncio.gather(first, stays) == [2, 6]
    assert [items for _, items in work.batches] == [[1], [3]]
    assert own.waiting == 0
    await own.close()


async def test_more_than_may_wait_are_refused_and_told_when_to_come_back() -> None:
    work = Work(held=True)
    own = batcher(work, most_waiting=2)
    waiting = [asyncio.create_task(own.ask(number)) for number in (1, 2)]
    await asyncio.sleep(0.01)
    with pytest.raises(Busy, match="ask again in") as refused:
        await own.ask(3)
    assert 1 <= refused.value.seconds <= 30
    work.go.set()
    assert await asyncio.gather(*waiting) == [2, 4]
    assert await own.ask(3) == 6
    await own.close()


async def test_an_error_of_one_item_does_not_fail_its_neighbours() -> None:
    work = Work()
    own = batcher(work)
    answers = await asyncio.gather(*(own.ask(number) for number in (1, -2, 3)), return_exceptions=True)
    assert answers[0] == 2
    assert isinstance(answers[1], InputError)
    assert answers[2] == 6
    with pytest.raises(InputError, match="no -5"):
        await own.ask_all([4, -5, 6], None, [1, 1, 1])
    assert await own.ask(7) == 14
    await own.close()


async def test_closing_cancels_who_still_waits() -> None:
    work, own, first = await busy()
    second = asyncio.create_task(own.ask(2))
    await asyncio.sleep(0.01)
    work.go.set()
    await own.close()
    answers = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)


async def test_one_that_nobody_holds_any_more_is_freed() -> None:
    own = batcher(Work())
    assert await own.ask(1) == 2
    await asyncio.sleep(0.01)
    said: list[object] = []  # that a task was destroyed while it waited
    asyncio.get_running_loop().set_exception_handler(lambda loop, problem: said.append(problem))
    freed = weakref.ref(own)
    del own
    gc.collect()
    assert freed() is None
    assert not said
