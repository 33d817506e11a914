"""A token index beside exact MaxSim and MUVERA: recall against time at equal bytes, and the memory that building takes.

    python benchmarks/token_index.py search [--documents 5000 50000] [--queries 20] [--collection scifact]
        [--plaid PYTHON]
    python benchmarks/token_index.py memory [--documents 10000 100000]

The tokens are real and the documents are not: MiniLM's states after 3 of its 6 layers, of passages of a collection,
projected to 128 numbers by a random rotation and scaled to norm 1. A document joins windows of two passages, 24 to 104
tokens in all, and each token gets noise of a fifth of its norm, so that no two documents share one. MiniLM was never
trained for late interaction.

"search" prints for each structure its bytes a document, and for each plan the share of the exact 10 and 100 best that
it finds and processor milliseconds a query, searched alone on one thread, with the ratio to the exact search beside it.
PYTHON is the interpreter of an environment with fast-plaid, which needs another torch than hyperseek: it then builds
and searches the same vectors in a process of its own, without exact scores at the end, which it does not keep.
"memory" builds in processes of their own, and prints by how much each rises at its peak.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _hardware import describe_hardware
from _trees import DATA
from hyperseek import open_dataset
from hyperseek.index import Index
from hyperseek.plan import Engine, Exhaustive, Plan, Rescore
from hyperseek.scoring import MaxSimScorer, Space, TokenPoints
from hyperseek.types import Document
from late import make_model

DIMENSION = 128
WINDOW = (12, 52)  # tokens
NOISE = 0.2
K = 100

MUVERA, LEARNED = "inner_product", "learned"
# By the name that is printed: the structure, and (candidates, effort) of its plans.
STRUCTURES: dict[str, tuple[dict[str, Any], list[tuple[int, int | None]]]] = {
    "token index, 2 bits": (
        {"kind": "centroids", "bits": 2},
        [(20, 8), (20, 16), (20, 32), (30, 16), (150, 16), (150, 32)],
    ),
    "token index, 4 bits": ({"kind": "centroids", "bits": 4}, [(20, 16), (150, 32)]),
    "MUVERA, flat": (
        {"kind": "flat", "storage": "float16", "charts": [{"name": MUVERA, "parameters": {"repetitions": 10}}]},
        [(n, None) for n in (300, 1000, 3000)],
    ),
    "MUVERA, flat, twice the bytes": (
        {"kind": "flat", "storage": "float16", "charts": [{"name": MUVERA, "parameters": {"repetitions": 20}}]},
        [(1000, None)],
    ),
    "learned, flat": (
        {"kind": "flat", "storage": "float16", "charts": [{"name": LEARNED}]},
        [(n, None) for n in (30, 100, 300)],
    ),
    "learned, hnsw": ({"kind": "hnsw", "m": 16, "charts": [{"name": LEARNED}]}, [(n, n) for n in (100, 300)]),
    "MUVERA, hnsw": (
        {"kind": "hnsw", "m": 16, "charts": [{"name": "balanced", "parameters": {"repetitions": 5}}]},
        [(1000, 1000)],
    ),
}


def rotation() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rotated: Tensor = torch.linalg.qr(torch.randn(384, DIMENSION, generator=generator))[0]
    return rotated


def real_tokens(collection: str, passages: int, queries: int) -> tuple[TokenPoints, MaxSimScorer]:
    """Encode passages and queries, or read what an earlier run left."""
    kept = Path(tempfile.gettempdir()) / f"token-index-{Path(collection).name}-{passages}-{queries}.pt"
    if not kept.exists():
        dataset, model = open_dataset(collection), make_model(None, 3)
        found = model.encode_documents([one.full_text for one in itertools.islice(dataset.documents(), passages)])
        asked = model.compile([query.text for query in itertools.islice(dataset.queries(), queries)])
        assert isinstance(asked, MaxSimScorer)
        tokens, asked_tokens = (
            torch.nn.functional.normalize(part @ rotation(), dim=-1) for part in (found.rows, asked.queries)
        )
        torch.save((tokens.half(), found.lengths, asked_tokens, asked.mask), kept)
    tokens, lengths, asked_tokens, mask = torch.load(kept)
    return TokenPoints.from_tensors(tokens.float(), lengths), MaxSimScorer(space(), asked_tokens, mask)


def space() -> Space:
    return Space("tokens", DIMENSION)


def made_documents(passages: TokenPoints, count: int) -> Iterator[tuple[Document, Tensor]]:
    """Yield documents of windows of two passages, with noise."""
    generator = torch.Generator().manual_seed(1)
    for number in range(count):
        parts = []
        for passage in torch.randint(len(passages), (2,), generator=generator).tolist():
            tokens = passages[passage : passage + 1].vectors
            size = int(torch.randint(*WINDOW, (), generator=generator))
            start = int(torch.randint(max(1, len(tokens) - size), (), generator=generator))
            parts.append(tokens[start : start + size])
        joined = torch.cat(parts)
        noise = torch.randn(joined.shape, generator=generator) * (NOISE / DIMENSION**0.5)
        yield Document(f"d{number}", ""), torch.nn.functional.normalize(joined + noise, dim=1)


def build_index(folder: Path, passages: TokenPoints, count: int) -> Index:
    return Index.from_vectors(folder, made_documents(passages, count), space(), storage="float16", total=count)


def ranked(index: Index, scorer: MaxSimScorer, plan: Plan | Any) -> tuple[list[list[str]], list[float]]:
    """Search by each query alone, and return the ids of its hits and its processor seconds."""
    found, seconds = [], []
    for query in range(len(scorer)):
        start = time.process_time()
        [hits] = index.search(scorer[query : query + 1], k=K, plan=plan, texts=False)
        seconds.append(time.process_time() - start)
        found.append([hit.id for hit in hits])
    return found, seconds


def recall(found: list[list[str]], truth: list[list[str]], k: int) -> float:
    return statistics.mean(len({*own[:k]} & {*best[:k]}) / k for own, best in zip(found, truth, strict=True))


def compare(
    passages: TokenPoints, scorer: MaxSimScorer, count: int, folder: Path, rounds: int, plaid: str | None
) -> None:
    index = build_index(folder, passages, count)
    exact = Plan(stages=(Exhaustive(),))
    ranked(index, scorer[:1], exact)
    truth, exact_seconds = ranked(index, scorer, exact)
    bare = statistics.median(exact_seconds)
    tokens = sum(len(points.rows) for _, points in index.points())
    print(
        f"\n{count:,} documents, {tokens:,} tokens, {len(scorer)} queries of {scorer.mask.sum() / len(scorer):.0f} "
        f"tokens; exact: {1000 * bare:.0f} ms a query, points in memory, float32\n"
    )
    print(
        "| structure | bytes a document | built in, s | candidates, effort | recall@10 | recall@100 | ms | of exact |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (config, plans) in STRUCTURES.items():
        start = time.perf_counter()
        record = index.build_engine(config, name="measured")
        built = time.perf_counter() - start
        place = index.path / record.folder
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / count
        for n, effort in plans:
            plan = Engine(name="measured", n=n, effort=effort) >> Rescore()
            ranked(index, scorer[:2], plan)
            turns = []
            for _ in range(rounds):  # in turns with the exact search, whose time depends on what else the machine does
                found, seconds = ranked(index, scorer, plan)
                _, beside = ranked(index, scorer[:3], exact)
                turns.append((statistics.median(seconds), statistics.median(beside)))
            own, other = (statistics.median(part) for part in zip(*turns, strict=True))
            wide = f"{recall(found, truth, K):.3f}" if n >= K else "-"
            settings, close = f"{n}, {effort or '-'}", recall(found, truth, 10)
            row = f"| {name} | {size:,.0f} | {built:.0f} | {settings} | {close:.3f} | {wide} "
            print(f"{row}| {1000 * own:.1f} | {own / other:.3f} |", flush=True)
    if plaid is not None:
        compare_plaid(plaid, index, scorer, truth, folder.with_name(f"plaid-{count}"))


_BUILD = """
import json, re, sys, time, torch
from pathlib import Path
from hyperseek.index import Index

torch.set_num_threads(1)

def resident(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))

Index.open(sys.argv[2]).build_engine("centroids")  # what libraries take once
index = Index.open(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before, start = resident("VmRSS"), time.perf_counter()
index.build_engine("centroids")
print(json.dumps([before, resident("VmHWM"), time.perf_counter() - start, index.attachments[0].details["centroids"]]))
"""


_PLAID = """
import json, os, sys, time
os.environ["RAYON_NUM_THREADS"] = "1"
import torch
from fast_plaid.search import FastPlaid

torch.set_num_threads(1)
rows, lengths, queries, mask = torch.load(sys.argv[1])
asked = [query[own.bool()].half() for query, own in zip(queries, mask)]
for bits in (2, 4):
    start = time.perf_counter()
    index = FastPlaid(index=f"{sys.argv[2]}/{bits}", device="cpu")
    index.create(documents_embeddings=list(rows.split(lengths.tolist())), nbits=bits)
    built = time.perf_counter() - start
    for probes, full in ((8, 512), (8, 4096), (32, 4096)):
        found, seconds = [], []
        for query in asked[:2] + asked:
            start = time.process_time()
            options = {"n_ivf_probe": probes, "n_full_scores": full, "show_progress": False}
            [hits] = index.search(query[None], top_k=100, **options)
            seconds.append(time.process_time() - start)
            found.append([number for number, _ in hits])
        print(json.dumps([bits, built, probes, full, found[2:], seconds[2:]]), flush=True)
"""


def compare_plaid(python: str, index: Index, scorer: MaxSimScorer, truth: list[list[str]], folder: Path) -> None:
    """Print the rows of fast-plaid on the same vectors."""
    parts = [points for _, points in index.points()]
    lengths = torch.cat([part.lengths for part in parts])
    rows = torch.cat([part.rows for part in parts]).half()
    folder.mkdir(parents=True)
    torch.save((rows, lengths, scorer.queries, scorer.mask), folder / "vectors.pt")
    command = [python, "-c", _PLAID, str(folder / "vectors.pt"), str(folder)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=clean).stdout
    for line in done.splitlines():
        if not line.startswith("["):
            continue
        bits, built, probes, full, found, seconds = json.loads(line)
        place = folder / str(bits)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / len(lengths)
        named = [[f"d{number}" for number in own] for own in found]
        _, beside = ranked(index, scorer[:3], Plan(stages=(Exhaustive(),)))
        own, other = statistics.median(seconds), statistics.median(beside)
        close = recall(named, truth, 10)
        row = f"| fast-plaid, {bits} bits | {size:,.0f} | {built:.0f} | {full}, {probes} | {close:.3f} "
        print(f"{row}| {recall(named, truth, K):.3f} | {1000 * own:.1f} | {own / other:.3f} |", flush=True)


def measure_memory(passages: TokenPoints, counts: list[int], folder: Path) -> None:
    print("\n| documents | tokens | centroids | peak, MB | above the start, MB | s |\n|---|---|---|---|---|---|")
    build_index(folder / "small", passages, 500)
    peaks: list[Mapping[str, float]] = []
    for count in counts:
        index = build_index(folder / str(count), passages, count)
        tokens = sum(len(points.rows) for _, points in index.points())
        command = [sys.executable, "-c", _BUILD, str(index.path), str(folder / "small")]
        done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, peak, seconds, centroids = json.loads(done.splitlines()[-1])
        peaks.append({"peak": peak, "grown": peak - before})
        memory = f"{peak / 1e6:.0f} | {(peak - before) / 1e6:.0f}"
        print(f"| {count:,} | {tokens:,} | {centroids:,} | {memory} | {seconds:.0f} |", flush=True)
    for key in ("peak", "grown"):
        values = [one[key] for one in peaks]
        print(f"{key}: the largest is {max(values) / min(values) - 1:.1%} above the smallest")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["search", "memory"])
    parser.add_argument("--documents", type=int, nargs="+")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--collection", default=str(DATA / "scifact"))
    parser.add_argument("--plaid", metavar="PYTHON", help="interpreter of an environment with fast-plaid")
    parser.add_argument("--only", default="", help="a pattern of the structures to build")
    arguments = parser.parse_args()
    for name in [name for name in STRUCTURES if not re.search(arguments.only, name)]:
        del STRUCTURES[name]
    torch.set_num_threads(1)
    print(describe_hardware())
    passages, scorer = real_tokens(arguments.collection, arguments.passages, arguments.queries)
    folder = Path(tempfile.mkdtemp())
    try:
        if arguments.what == "memory":
            measure_memory(passages, arguments.documents or [10_000, 100_000], folder)
        else:
            for count in arguments.documents or [5_000, 50_000]:
                compare(passages, scorer, count, folder / str(count), arguments.rounds, arguments.plaid)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
