"""Two versions of the library side by side: start, encoding, search and training.

    python benchmarks/side_by_side.py OTHER/src [--rounds 9] [--tasks help encode search]

Every task runs in a process of its own, in turn with this version and with the other, whose `src` folder is given, so
that a busy machine slows both alike. Start-up is timed from outside; the other tasks time themselves after a warm-up.
Printed are the medians in milliseconds, and of the ratios this / other of all rounds the median, the least and the
greatest. The tasks use names that are public in both versions.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _hardware import describe_hardware, median_ratio

OURS = Path(__file__).parent.parent / "src"

PREPARE = """
import json, sys, time
from pathlib import Path
import torch
from hyperseek import Document, Index, Space, load, read_recipe, train
torch.set_num_threads(2)
torch.manual_seed(0)
work = Path(sys.argv[1])
seconds = []
def timed(run, times=3):
    run()
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
"""
INDEX = """
folder, vectors = work / "index", torch.nn.functional.normalize(torch.randn(50_064, 384)).numpy()
queries = vectors[50_000:]
if not folder.exists():
    pairs = [(Document(str(row), "a text"), vector) for row, vector in enumerate(vectors[:50_000])]
    Index.from_vectors(folder, pairs, Space("cosine", 384)).build_engine("hnsw")
index = Index.open(folder)
"""
TASKS: dict[str, list[str] | str] = {
    "help": ["-m", "hyperseek", "--help"],
    "import": ["-c", "import hyperseek.index, hyperseek.training"],
    "encode": """
model = load("minilm", device="cpu")
texts = [f"{row} " + "what the people of the town say about the number of boats in its harbour " * 5
         for row in range(64)]
timed(lambda: model.encode_documents(texts))
""",
    "exhaustive": INDEX + 'timed(lambda: index.search(list(queries), k=10, engine="exact"))',
    "engine": INDEX + 'timed(lambda: [index.search(query, k=10, engine="hnsw") for query in queries])',
    "q-net": """
import hyperseek.scoring
from hyperseek.scoring import QNetScorer
Points = getattr(hyperseek.scoring, "VectorPoints", hyperseek.scoring.Points)  # its former name
matrices, vectors = [torch.randn(16, 384, 384) / 20, torch.randn(16, 384, 1)], [torch.randn(16, 384, 1)]
scorer = QNetScorer(Space("dot", 384), matrices, vectors, converter="repeated_dense_block",
                    converter_kwargs={"vector_dimensions": [384, 384, 1]})
points = Points(torch.randn(20_000, 384))
timed(lambda: scorer.score(points))
""",
    "train": """
# Steps alone: few examples, no validation, and the trunk's outputs from the cache that the first round fills.
limits = ["train.max_steps=20", "data.sources.pydocs.limit=200", "data.extra_documents=64", "validation.sets=null"]
folder = work / f"run-{len(list(work.glob('run-*')))}"
places = [f"train.cache.folder={work / 'features'}", f"output.folder={folder}"]
train(read_recipe("qnet-minilm-pydocs", [*limits, *places]))
seconds.append(json.loads((folder / "run.json").read_text())["seconds"]["training"] / 20)
""",
}


def seconds_of(task: list[str] | str, source: Path, work: Path) -> float:
    """Run a task once with the version in `source`."""
    arguments = (
        task if isinstance(task, list) else ["-c", PREPARE + task + "\nprint(sorted(seconds)[len(seconds) // 2])"]
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments, *([] if isinstance(task, list) else [str(work)])],
        env={**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"with {source}:\n{done.stderr[-3000:]}")
    return time.perf_counter() - start if isinstance(task, list) else float(done.stdout.split()[-1])


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    arguments = parser.parse_args()
    print(describe_hardware())
    print(f"{'task':12} {'this, ms':>10} {'other, ms':>10} {'ratio':>6}  of all rounds")
    with tempfile.TemporaryDirectory() as folder:
        sources = {OURS: Path(folder) / "this", arguments.other.resolve(): Path(folder) / "other"}
        for name in arguments.tasks:
            seconds: dict[Path, list[float]] = {source: [] for source in sources}
            for number in range(arguments.rounds + 1):
                for source in list(sources)[:: 1 if number % 2 else -1]:
                    sources[source].mkdir(exist_ok=True)
                    value = seconds_of(TASKS[name], source, sources[source])
                    seconds[source] += [value] * (number > 0)  # the first round fills caches
            ours, theirs = seconds.values()
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            print(
                f"{name:12} {1e3 * statistics.median(ours):10.1f} {1e3 * statistics.median(theirs):10.1f} "
                f"{median_ratio(ours, theirs):6.2f}  {min(ratios):.2f} to {max(ratios):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
