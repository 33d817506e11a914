"""Requests that come at the same time are computed together.

An item waits for others of its key, at most `longest_wait` seconds, or as long as an earlier batch is computed. A batch
is then made of the one that waits longest and those whose lengths are nearest to its own, since a model pads all to the
longest. It is computed in a thread, so that the event loop never waits for a model.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE = 30  # seconds that `Retry-After` never exceeds


class Busy(Exception):
    """As many requests wait as may wait.

    Args:
        seconds: After how many to ask again.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the server is busy; ask again in {seconds} s")
        self.seconds = seconds


@dataclass(eq=False, slots=True)
class _Asked(Generic[Item, Result]):
    item: Item
    key: Hashable
    length: int
    count: int
    since: float
    answer: asyncio.Future[Result]
    context: contextvars.Context  # of the request: times are told within it


class Batcher(Generic[Item, Result]):
    """Computes items in batches.

    Args:
        run: Computes the results of items of one key, in their order; called in a thread, one call at a time.
        budget: Most tokens of a batch, padding included; a single item may have more.
        longest_wait: Seconds that an item waits for others while nothing is computed.
        most_waiting: How many requests may wait for answers at a time.
        observe: Called with the name of a measurement and its value: `queue`, seconds that an item waited, and `batch`,
            the number of items computed together.
    """

    def __init__(
        self,
        run: Callable[[Any, list[Item]], Sequence[Result]],
        *,
        budget: int,
        longest_wait: float,
        most_waiting: int,
        observe: Callable[[str, float], None] = lambda name, value: None,
    ) -> None:
        self._run = run
        self._budget = budget
        self._longest_wait = longest_wait
        self._most_waiting = most_waiting
        self._observe = observe
        self._waiting: dict[Hashable, list[_Asked[Item, Result]]] = {}
        self._requests = 0
        self._seconds = 0.0  # that a request took lately, from its arrival to its answer
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hyperseek-batch")

    @property
    def waiting(self) -> int:
        """How many requests wait for their answers."""
        return self._requests

    async def ask(self, item: Item, key: Hashable = None, length: int = 1, *, count: int = 1) -> Result:
        """Compute one item together with others of its key.

        Args:
            item: What `run` is given.
            key: Items of different keys are never computed together.
            length: Tokens of its longest text.
            count: How many texts it has.

        Returns:
            Its result.

        Raises:
            Busy: As many requests wait as may wait.
        """
        [result] = await self._answers([item], key, [length], count)
        return result

    async def ask_all(self, items: Sequence[Item], key: Hashable, lengths: Sequence[int]) -> list[Result]:
        """Compute the items of one request, which may end up in different batches.

        Args:
            items: What `run` is given.
            key: As in `ask`.
            lengths: Tokens of each.

        Returns:
            Their results, in order.

        Raises:
            Busy: As many requests wait as may wait.
        """
        return await self._answers(items, key, lengths, 1) if items else []

    async def _answers(self, items: Sequence[Item], key: Hashable, lengths: Sequence[int], count: int) -> list[Result]:
        if self._requests >= self._most_waiting:
            raise Busy(min(_PATIENCE, max(1, math.ceil(self._seconds))))
        if self._closed:
            raise Busy(_PATIENCE)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        loop, since, context = asyncio.get_running_loop(), time.monotonic(), contextvars.copy_context()
        asked = [
            _Asked(item, key, length, count, since, loop.create_future(), context)
            for item, length in zip(items, lengths, strict=True)
        ]
        self._waiting.setdefault(key, []).extend(asked)
        self._requests += 1
        self._arrived.set()
        try:
            return [await one.answer for one in asked]
        finally:
            self._requests -= 1
            self._seconds += 0.1 * (time.monotonic() - since - self._seconds)
            for one in asked:  # those whose client has gone, or whose neighbour has failed, are not computed
                one.answer.cancel()
                if not one.answer.cancelled():
                    one.answer.exception()  # asyncio warns of errors that nobody looked at

    async def close(self) -> None:
        """Stop; whoever still waits is cancelled."""
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        for group in self._waiting.values():
            for one in group:
                one.answer.cancel()
        self._waiting.clear()
        await asyncio.to_thread(self._thread.shutdown)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            oldest = self._oldest()
            if oldest is None:
                return  # the next request starts again, and a batcher that nobody holds any more is freed
            await self._gather(oldest)
            batch = self._take(oldest)
            if not batch:
                continue
            now = time.monotonic()
            for one in batch:
                one.context.copy().run(self._observe, "queue", now - one.since)
            self._observe("batch", len(batch))
            items = [one.item for one in batch]
            try:
                run = oldest.context.copy().run
                outcomes = await loop.run_in_executor(self._thread, run, self._outcomes, oldest.key, items)
            except asyncio.CancelledError:
                for one in batch:
                    one.answer.cancel()
                raise
            for one, (result, error) in zip(batch, outcomes, strict=True):
                if one.answer.done():
                    continue
                if error is not None:
                    one.answer.set_exception(error)
                else:
                    one.answer.set_result(result)

    def _oldest(self) -> _Asked[Item, Result] | None:
        """Return the item that waits longest, after those whose clients have gone are dropped."""
        self._waiting = {
            key: left
            for key, group in self._waiting.items()
            if (left := [one for one in group if not one.answer.done()])
        }
        return min((group[0] for group in self._waiting.values()), key=lambda one: one.since, default=None)

    async def _gather(self, oldest: _Asked[Item, Result]) -> None:
        """Wait until there is enough for a batch, or until the oldest item has waited long enough."""
        deadline = oldest.since + self._longest_wait
        while (left := deadline - time.monotonic()) > 0:
            if oldest.answer.done() or _tokens(self._waiting[oldest.key]) >= self._budget:
                return
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrived.wait()

    def _take(self, oldest: _Asked[Item, Result]) -> list[_Asked[Item, Result]]:
        """Take the items for one batch: the oldest, and those whose lengths are nearest to its own."""
        waiting = [one for one in self._waiting.pop(oldest.key) if not one.answer.done()]
        near = sorted(waiting, key=lambda one: (one is not oldest, abs(one.length - oldest.length)))
        count, longest, taken = 0, 0, 0
        for one in near:
            count, longest = count + one.count, max(longest, one.length)
            if taken and count * longest > self._budget:
                break
            taken += 1
        left = set(near[taken:])
        if left:
            self._waiting[oldest.key] = [one for one in waiting if one in left]
        return sorted(near[:taken], key=lambda one: one.length)

    def _outcomes(self, key: Hashable, items: list[Item]) -> list[tuple[Any, Exception | None]]:
        """Compute a batch; where that fails, each item by itself, so that none fails for another's sake."""
        try:
            return [(result, None) for result in self._run(key, items)]
        except BaseException as error:  # a panic of a library written in Rust is no Exception
            if len(items) == 1:
                return [(None, error if isinstance(error, Exception) else RuntimeError(str(error)))]
        return [outcome for item in items for outcome in self._outcomes(key, [item])]


def _tokens(items: Sequence[_Asked[Any, Any]]) -> int:
    return sum(one.count for one in items) * max(one.length for one in items)
