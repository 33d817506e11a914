"""The machine: devices by name, threads, values that threads share, and the installed versions of packages.

torch splits each operation over all cores and waits for the slowest part. A chain of short operations on blocks that
fit a core's cache runs faster if each core takes whole blocks: nothing waits, and intermediate results stay in the
core's cache. On a busy machine, where the slowest thread is often a preempted one, it is several times faster.

A process forked after its parent has used OpenMP lacks the parent's threads, and OpenMP waits for them forever. With a
single thread it needs none, so every forked child begins with `torch.set_num_threads(1)`.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar, cast

import torch

from hyperseek.errors import InputError, brief

T = TypeVar("T")

# Only with OpenMP is the number of threads set per calling thread.
_OPENMP = "parallel backend: OpenMP" in torch.__config__.parallel_info()
# Renewed in forked children.
_all_kept: weakref.WeakSet[Kept] = weakref.WeakSet()


def check_device(device: str | torch.device | None) -> str | None:
    """Check that a device exists on this machine.

    Args:
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, or any other that torch knows; None leaves the choice to the caller.

    Returns:
        Its name, or None.

    Raises:
        InputError: torch knows no such device, or this machine has none.
    """
    if device is None:
        return None
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise InputError(f"device {str(device)[:60]!r} is unknown; give cpu, cuda, or cuda:N for the GPU N") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type == "cuda" and not count:
        raise InputError(f"device {str(chosen)!r} does not exist: torch finds no usable GPU; give cpu, or no device")
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise InputError(f"device {str(chosen)!r} does not exist: the GPUs are cuda:0 to cuda:{count - 1}")
    try:
        # Each other kind reports in its own way that it is missing; tensors on `meta` have no values.
        torch.zeros(1, device=chosen).tolist()
    except Exception as error:
        raise InputError(f"device {str(chosen)!r} cannot be used here ({brief(error)}); give cpu or cuda") from None
    return str(chosen)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep torch from splitting the operations of this thread while the block runs; faster for many short ones."""
    cores = torch.get_num_threads()
    if cores == 1 or not _OPENMP:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def run_on_cores(work: Callable[[], None], *, at_most: int) -> None:
    """Run a function in as many threads as torch would use, with one core per call.

    Args:
        work: Takes its share of work from a source common to all calls; runs without gradients.
        at_most: Maximum number of useful calls. With one, or with `torch.set_num_threads(1)`, the function is
            called in this thread, and torch splits its operations as usual.

    Raises:
        BaseException: The first error of a call.
    """
    cores = torch.get_num_threads()
    if min(cores, at_most) <= 1 or not _OPENMP:
        with torch.no_grad():
            work()
        return
    inference = torch.is_inference_mode_enabled()

    def run() -> None:
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.no_grad():
            work()

    try:
        with ThreadPoolExecutor(min(cores, at_most)) as pool:
            calls = [pool.submit(run) for _ in range(min(cores, at_most))]
    finally:
        torch.set_num_threads(cores)  # the default for new threads, which the calls have changed
    for call in calls:
        call.result()


def _become_child() -> None:
    """Let torch and faiss compute in the calling thread only: a forked child has no other."""
    torch.set_num_threads(1)
    faiss = sys.modules.get("faiss")
    if faiss is not None:
        faiss.omp_set_num_threads(1)


if _OPENMP and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_become_child)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return versions by name, of those packages that are installed."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(eq=False, slots=True)
class _Entry:
    lock: threading.RLock = field(default_factory=threading.RLock)
    made: bool = False
    value: Any = None
    bytes: int = 0


class Kept:
    """A cache: values by key, each computed by the first caller while other callers wait; safe across a fork.

    Args:
        most_bytes: Limit on all values together, beyond which the least recently used are dropped; None for no limit.
        least: Number of most recently used values that are kept whatever their size.
    """

    def __init__(self, *, most_bytes: int | None = None, least: int = 1) -> None:
        self._most_bytes = most_bytes
        self._least = least
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.Lock()
        _all_kept.add(self)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, make: Callable[[], T], *, size: Callable[[T], int] | None = None) -> T:
        """Return the value of a key, making it if it is not there.

        Args:
            key: Any hashable value.
            make: Makes the value; if it raises, the error is passed on and nothing is kept.
            size: Returns the bytes of a value; None counts 0.

        Returns:
            The value.
        """
        with self._lock:
            entry = self._entries.pop(key, None) or _Entry()
            self._entries[key] = entry  # the last one is the one used last
        with entry.lock:  # held for long only while the value is being made
            if not entry.made:
                try:
                    entry.value = make()
                except BaseException:
                    self._drop(key, entry)
                    raise
                entry.bytes = 0 if size is None else size(entry.value)
                entry.made = True
                self._shrink()
        return cast("T", entry.value)

    def forget(self, unwanted: Callable[[Any], bool]) -> None:
        """Drop the values of all keys for which a function is true."""
        with self._lock:
            self._entries = {key: entry for key, entry in self._entries.items() if not unwanted(key)}

    def _drop(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]

    def _shrink(self) -> None:
        if self._most_bytes is None:
            return
        with self._lock:
            total = sum(entry.bytes for entry in self._entries.values())
            for key in list(self._entries)[: -self._least]:
                if total <= self._most_bytes:
                    break
                total -= self._entries.pop(key).bytes

    def _after_fork(self) -> None:
        """Replace the locks in a forked child: those held by other threads of the parent are never released here."""
        self._lock = threading.Lock()
        self._entries = {key: entry for key, entry in self._entries.items() if entry.made}
        for entry in self._entries.values():
            entry.lock = threading.RLock()


def _renew_all() -> None:
    for kept in list(_all_kept):
        kept._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
