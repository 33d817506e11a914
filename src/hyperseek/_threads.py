"""One thread a core, each with work of its own, instead of every operation split over all cores.

torch splits each operation and waits for the slowest part of it. A chain of short operations on blocks that fit a
core's cache runs faster if each core takes whole blocks: nothing waits, and what a core computed it finds in its own
cache. On a busy machine, where the slowest part is often one that was put to sleep, that is several times faster.

A process that was forked after its parent computed has none of the parent's threads, and OpenMP waits for them for
ever. With one thread it asks for none, so every forked child begins with `torch.set_num_threads(1)`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

# Only there does a thread's own number of threads stay its own.
_OPENMP = "parallel backend: OpenMP" in torch.__config__.parallel_info()


@contextmanager
def one_core() -> Iterator[None]:
    """Keep torch from splitting operations of this thread while the block runs: for many short ones."""
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
    """Run a function in as many threads as torch would use, with one core for each call.

    Args:
        work: Takes its share from something that all calls share; runs without gradients.
        at_most: More calls than this would find nothing to do. With one, or with `torch.set_num_threads(1)`, it is
            called here, and torch splits its operations as usual.

    Raises:
        BaseException: Whatever a call raised.
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
        torch.set_num_threads(cores)  # the default of threads still to come, which the calls have changed
    for call in calls:
        call.result()


def _become_child() -> None:
    """Let torch and faiss compute in the calling thread alone, which is all that a forked child has."""
    torch.set_num_threads(1)
    faiss = sys.modules.get("faiss")
    if faiss is not None:
        faiss.omp_set_num_threads(1)


if _OPENMP and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_become_child)
