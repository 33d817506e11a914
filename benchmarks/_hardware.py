"""What every benchmark prints first (hardware, threads, versions) and how it measures (in turns, by medians)."""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "sve")
_PACKAGES = ("hyperseek", "torch", "numpy", "transformers", "sentence-transformers", "pylance")


def describe_hardware() -> str:
    """Name processor, flags, threads, memory, load, devices and versions, in a few lines."""
    info = _cpu_info()
    flags = [flag for flag in _FLAGS if flag in info.get("flags", info.get("Features", "")).split()]
    lines = [
        f"CPU: {info.get('model name', platform.processor() or platform.machine())}, {os.cpu_count()} logical cores, "
        f"{' '.join(flags) or 'flags unknown'}",
        f"threads: torch {torch.get_num_threads()}; memory: {psutil.virtual_memory().total / 2**30:.0f} GiB; "
        f"load before: {psutil.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    ]
    if torch.cuda.is_available():
        lines.append(f"GPU: {torch.cuda.get_device_name()}")
    return "\n".join(lines)


def take_turns(
    systems: Mapping[str, Callable[[], object]], repeats: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time systems one after the other, `repeats` rounds, so that other work on the machine hits all alike.

    Returns:
        Seconds of each round by the clock, by system.
    """
    for run in systems.values():  # warm up
        run()
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(repeats):
        for name, run in systems.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Watch the resident memory of this process, every millisecond, while the block runs.

    Yields:
        A function that returns how far it rose above its size at the beginning, in bytes.
    """
    process = psutil.Process()
    start = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: max(peak, process.memory_info().rss) - start
    finally:
        done.set()
        watcher.join()


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
