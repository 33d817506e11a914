"""Start-up: how long a command takes before it answers.

    python benchmarks/start.py [--rounds 5] [--cold-rounds 2]

Each command is a process of its own: `--help`, `import hyperseek`, and one search of a small index of the packaged
model, once as it is and once through sentence-transformers, which `--model` imports. They take turns, so that other
work on the machine hits all alike; seconds of the processor say more than those of the clock where there is other
work. Before a cold search, the files that a search reads are dropped from the system's cache (on Linux; those that
another process has mapped stay).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from _hardware import describe_hardware
from hyperseek import Index, load

_LIST = """
import sys
from hyperseek.cli import main
try:
    main()
except SystemExit:
    pass
maps = open("/proc/self/maps").read().split("\\n")
files = {line.split(None, 5)[5] for line in maps if line.count("/") and len(line.split(None, 5)) == 6}
for module in list(sys.modules.values()):
    names = (vars(module).get("__file__"), vars(module).get("__cached__"))
    files |= {name for name in names if isinstance(name, str)}
print("\\n".join(files), file=sys.stderr)
"""


def timed(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds of the clock and of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return end - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def drop_from_cache(files: list[Path]) -> None:
    for file in files:
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=2)
    arguments = parser.parse_args()
    print(describe_hardware())
    with tempfile.TemporaryDirectory() as folder:
        retriever = load("minilm", device="cpu")
        Index.build(folder, [f"document {number} about number {number}" for number in range(200)], retriever)
        asked = ["search", folder, "how are weak references made?", "--device", "cpu"]
        here = [sys.executable, "-m", "hyperseek"]
        commands = {
            "hyperseek --help": [*here, "--help"],
            "import hyperseek": [sys.executable, "-c", "import hyperseek"],
            "hyperseek search, warm": [*here, *asked],
            "the same through sentence-transformers": [*here, *asked, "--model", "minilm"],
        }
        told = subprocess.run([sys.executable, "-c", _LIST, *asked], capture_output=True, text=True, check=True)
        read = [Path(line) for line in told.stderr.splitlines()]
        read += [*Path(folder).rglob("*"), *Path(retriever.model[0].model.config._name_or_path).rglob("*")]
        cold = [*here, *asked]
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for command in commands.values():
            timed(command)
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                seconds[name].append(timed(command))
        if hasattr(os, "posix_fadvise"):
            for _ in range(arguments.cold_rounds):
                drop_from_cache(read)
                seconds.setdefault("hyperseek search, cold", []).append(timed(cold))
    print("\nmedian seconds               of the clock  of the processor")
    for name, rounds in seconds.items():
        clock, processor = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{name:<40} {clock:6.2f} {processor:6.2f}")


if __name__ == "__main__":
    main()
