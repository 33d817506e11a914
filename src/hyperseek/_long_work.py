"""Progress of long work, times of its stages, and Ctrl-C handling that stops it at a point where everything is stored.

A long step runs inside `stoppable`, and calls `stop_here` wherever all previous work is on disk. The first Ctrl-C waits
for the next such point; the second stops at once. Both raise `Interrupted`, a `KeyboardInterrupt` whose message says
what is stored. Outside the main thread, or if the program has its own handler, Ctrl-C is left alone.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Protocol, TypeVar, cast

from hyperseek.errors import printable, time_in_words

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
POLL = 0.2
"""Seconds between two looks at whether Ctrl-C was pressed, while everything waits for another machine."""
_quiet = False

# Seconds between two lines if standard error is not a terminal; a shorter step prints nothing.
_INTERVAL = 30.0


class Progress(Protocol):
    """Receives the progress of a long step."""

    def advance(self, count: int = 1) -> None:
        """Report `count` more units done."""
        ...

    def describe(self, text: str) -> None:
        """Replace the text before the bar."""
        ...


class _Silent:
    def advance(self, count: int = 1) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


class _Lines:
    """A step reported in lines, by a thread shared by all steps, since one unit may take longer than the interval."""

    def __init__(self, text: str, total: int | None, unit: str, done: int) -> None:
        self.text = text
        self.total = total
        self.unit = unit
        self.before = done
        self.done = done
        self.start = self.last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self.done += count

    def describe(self, text: str) -> None:
        self.text = text

    def line(self, now: float) -> str:
        """Return a line with the units done and their total, the rate, and the time left."""
        seconds = now - self.start
        of = "" if self.total is None else f" of {self.total:,}"
        line = f"{self.text}: {self.done:,}{of} {self.unit}".rstrip()
        rate = (self.done - self.before) / seconds if seconds > 0 else 0.0
        if rate > 0:
            line += f", {rate:.3g} a second" if rate >= 0.1 else f", {1 / rate:.0f} s each"
            if self.total is not None:
                line += f", {time_in_words(max(0, self.total - self.done) / rate)} left"
        return f"{line}, {time_in_words(seconds)} so far"


class _Ticker:
    """Prints a line for each running step whose last line is `_INTERVAL` old."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[_Lines, None] = {}
        self._thread: threading.Thread | None = None

    def add(self, step: _Lines) -> None:
        with self._lock:
            self._steps[step] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hyperseek-progress", daemon=True)
                self._thread.start()

    def remove(self, step: _Lines) -> None:
        with self._lock:
            self._steps.pop(step, None)

    def forget(self) -> None:
        """Reset in a forked child, which has neither the thread nor the steps, and whose lock may be held."""
        self._lock = threading.Lock()
        self._steps = {}
        self._thread = None

    def _run(self) -> None:
        # Polling costs less than waking up for every search, which is also a step.
        while True:
            time.sleep(min(1.0, _INTERVAL / 4))
            with self._lock:
                if not self._steps:
                    self._thread = None
                    return
                now = time.monotonic()
                late = [step for step in self._steps if now - step.last >= _INTERVAL]
                for step in late:
                    step.last = now
                lines = [step.line(now) for step in late]
            for line in lines:
                print(printable(line), file=sys.stderr, flush=True)  # noqa: T201 (a log in place of a bar)


_ticker = _Ticker()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ticker.forget)


def set_quiet(quiet: bool) -> None:
    """Switch all reports of progress off or on again for this process (`--quiet`)."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Return whether reports are switched off."""
    return _quiet


@contextmanager
def progress(text: str, total: int | None = None, *, unit: str = "", done: int = 0) -> Iterator[Progress]:
    """Report progress on standard error while the block runs.

    Args:
        text: What is being done, as in `"encoding"`.
        total: Number of units; None if unknown.
        unit: Name of the units, as in `"documents"`.
        done: Number of units that an earlier, resumed run has done.

    Yields:
        A bar on a terminal, otherwise a reporter that prints a line every half minute. Silent after `set_quiet(True)`,
        and for a single unit.
    """
    # A single unit has no progress to show, and the search of one query should have no overhead.
    if _quiet or total == 1:
        yield _Silent()
        return
    if not sys.stderr.isatty():
        step = _Lines(text, total, unit, done)
        _ticker.add(step)
        try:
            yield step
        finally:
            _ticker.remove(step)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(printable(text), total=total, completed=done)

        class _Shown:
            def advance(self, count: int = 1) -> None:
                bar.advance(task, count)

            def describe(self, text: str) -> None:
                bar.update(task, description=printable(text))

        yield _Shown()


class _Listening(threading.local):
    tell: Callable[[str, float], None] | None = None
    stage: str | None = None


_listening = _Listening()


@contextmanager
def listening(tell: Callable[[str, float], None]) -> Iterator[None]:
    """Be told how long the stages of the work take that this thread does while the block runs.

    Args:
        tell: Called with the name of a stage and its seconds.

    Yields:
        Nothing.
    """
    before, _listening.tell = _listening.tell, tell
    try:
        yield
    finally:
        _listening.tell = before


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Tell who listens how long the block takes; a stage within a stage is a part of it."""
    tell = _listening.tell
    if tell is None or _listening.stage is not None:
        yield
        return
    _listening.stage, start = stage, time.perf_counter()
    try:
        yield
    finally:
        _listening.stage = None
        tell(stage, time.perf_counter() - start)


_NOTE = b"\nhyperseek: storing what is done; press Ctrl-C again to stop at once\n"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a long step; the message says what is stored and how to resume."""


class _Step:
    def __init__(self, message: Callable[[], str]) -> None:
        self.message = message
        self.asked = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        # Not `print`: the signal may have interrupted a write to the same buffer.
        with suppress(OSError, ValueError):  # there may be no standard error to write to
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _NOTE)


_running: _Step | None = None


@contextmanager
def stoppable(message: Callable[[], str]) -> Iterator[None]:
    """Defer Ctrl-C to the next `stop_here` while the block runs.

    Args:
        message: Returns what is stored so far and how to resume; called when the block is stopped.

    Yields:
        Nothing.

    Raises:
        Interrupted: Ctrl-C was pressed.
    """
    # Inside another step, that step's stopping points apply, and its message covers the whole.
    mine = threading.current_thread() is threading.main_thread() and _running is None
    outermost = mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        with _handled(_Step(message)) if outermost else nullcontext():
            yield
    except Interrupted:
        raise
    except KeyboardInterrupt as stopped:
        raise Interrupted(message()) from stopped


@contextmanager
def _handled(step: _Step) -> Iterator[None]:
    global _running
    _running = step
    before = signal.signal(signal.SIGINT, step.handle)
    try:
        yield
        if step.asked:
            # No stopping point followed: everything is done, and an interrupted caller should not undo it.
            raise Interrupted(step.message())
    finally:
        signal.signal(signal.SIGINT, before)
        _running = None


def stop_asked() -> bool:
    """Return whether Ctrl-C was pressed and the work should stop at the next safe point."""
    return _running is not None and _running.asked


def stop_here() -> None:
    """Stop if Ctrl-C was pressed; called where all work so far is on disk.

    Raises:
        Interrupted: Ctrl-C was pressed.
    """
    step = _running
    if step is not None and step.asked and threading.current_thread() is threading.main_thread():
        raise Interrupted(step.message())


def in_threads(work: Callable[[_Item], _Result], items: Sequence[_Item], at_once: int) -> Iterator[tuple[int, _Result]]:
    """Call a function for each item, several at a time, for calls that wait for another machine.

    Ctrl-C, and an error of a call, do not wait for calls that are running, which may hang: their results are lost.

    Args:
        work: The function.
        items: Its arguments.
        at_once: Calls at a time; 1 makes them in this thread.

    Yields:
        The place of an item and its result, in the order of completion.

    Raises:
        Interrupted: Ctrl-C was pressed.
    """
    if at_once == 1:
        for place, item in enumerate(items):
            stop_here()
            yield place, work(item)
        return
    todo: queue.SimpleQueue[tuple[int, _Item]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, _Result | None, BaseException | None]] = queue.SimpleQueue()
    for pair in enumerate(items):
        todo.put(pair)
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            try:
                place, item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((place, work(item), None))
            except BaseException as error:
                done.put((place, None, error))

    try:
        for _ in range(min(at_once, len(items))):
            # Daemons, since an executor's threads would be waited for at the end of the process.
            threading.Thread(target=run, name="hyperseek-call", daemon=True).start()
        left = len(items)
        while left:
            stop_here()
            try:
                place, result, error = done.get(timeout=POLL)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            left -= 1
            yield place, cast(_Result, result)
    finally:
        ended.set()
