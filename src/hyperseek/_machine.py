"""The machine: devices by name, threads, and the installed versions of packages.

torch splits each operation over all cores and waits for the slowest part. A chain of short operations on blocks that
fit a core's cache runs faster if each core takes whole blocks: nothing waits, and intermediate results stay in the
core's cache. On a busy machine, where the slowest thread is often a preempted one, it is several times faster.

A process forked after its parent has used OpenMP lacks the parent's threads, and OpenMP waits for them forever. With a
single thread it needs none, so every forked child begins with `torch.set_num_threads(1)`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import torch

from hyperseek.errors import InputError, brief

# Only with OpenMP is the number of threads set per calling thread.
_OPENMP = "parallel backend: OpenMP" in torch.__config__.parallel_info()


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
