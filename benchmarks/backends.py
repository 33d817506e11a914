"""Backends: documents a second, and nDCG@10, of torch, ONNX Runtime and OpenVINO, in one run.

    python benchmarks/backends.py [--texts 60] [--threads 1] [--quality COLLECTION [--every 3]] [--only onnx ...]

Texts are SciFact's abstracts and NFCorpus's from HYPERSEEK_DATA (default ../shared/data), every n-th. The systems take
turns, so that other work on the machine hits all alike; ratios are medians of the rounds', of wall time and, in
parentheses, of the processor time of all threads. `sentence-transformers` is its own `encode`, with torch in float32.

With `--quality` the documents of a collection (`cranfield`), or every n-th of them, are encoded by each, too, and its
queries by the same model: nDCG@10 of the test split, by judgements of these documents.

`ONEDNN_MAX_CPU_ISA=AVX512_CORE` keeps bfloat16 of torch from instructions that other processors lack. Its float32 goes
through another library, and ONNX Runtime and OpenVINO do not read it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import Tensor

from _hardware import describe_hardware, median_ratio
from hyperseek.data import open_dataset
from hyperseek.evaluation import calculate
from hyperseek.models import Retriever, load
from hyperseek.plan import scan
from hyperseek.scoring import vectors_of

REFERENCE = "torch float32"
SYSTEMS: dict[str, tuple[str | None, str]] = {
    REFERENCE: (None, "float32"),
    "torch bfloat16": (None, "bfloat16"),
    "onnx": ("onnx", "auto"),
    "onnx-int8": ("onnx-int8", "auto"),
    "openvino": ("openvino", "auto"),
    "openvino-bfloat16": ("openvino-bfloat16", "auto"),
    "openvino-int8": ("openvino-int8", "auto"),
}


def data(name: str) -> Path:
    return Path(os.environ.get("HYPERSEEK_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / name


def texts(count: int) -> list[str]:
    chosen: list[str] = []
    for name in ("scifact", "nfcorpus"):
        documents = [document.full_text for document in open_dataset(data(name)).documents()]
        chosen += documents[:: max(1, len(documents) // (count // 2))][: count // 2]
    return chosen


def quality(model: Retriever, dtype: str, name: str, every: int) -> float:
    """Return nDCG@10 of the test split of a collection, every n-th of whose documents this model encodes."""
    dataset = open_dataset(data(name))
    documents, queries = list(dataset.documents())[::every], list(dataset.queries("test"))
    there = {document.id for document in documents}
    qrels = {
        query: own
        for query, judged in dataset.qrels("test").items()
        if any((own := {id: grade for id, grade in judged.items() if id in there}).values())
    }
    points = model.encode_documents([document.full_text for document in documents], dtype=dtype)
    scores, rows = scan(model.compile([query.text for query in queries]), [points], k=100)
    run = {
        query.id: {documents[row].id: float(score) for row, score in zip(own, values, strict=True)}
        for query, own, values in zip(queries, rows.tolist(), scores.tolist(), strict=True)
    }
    return statistics.fmean(calculate(run, qrels, "nDCG@10")["nDCG@10"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quality", metavar="COLLECTION")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(describe_hardware() + f", onnxruntime {version('onnxruntime')}, openvino {version('openvino')}")
    print(f"ONEDNN_MAX_CPU_ISA: {os.environ.get('ONEDNN_MAX_CPU_ISA', 'not set')}")
    documents = texts(arguments.texts)
    chosen = {name: SYSTEMS[name] for name in {REFERENCE: None, **dict.fromkeys(arguments.only)}}
    models = {backend: load("minilm", device="cpu", backend=backend) for backend, _ in chosen.values()}

    def encoder(backend: str | None, dtype: str) -> Callable[[], Tensor]:
        return lambda: vectors_of(models[backend].encode_documents(documents, dtype=dtype))

    own = models[None].model
    systems: dict[str, Callable[[], Tensor]] = {name: encoder(*given) for name, given in chosen.items()}
    systems["sentence-transformers"] = lambda: torch.from_numpy(own.encode(documents))
    vectors = {name: run() for name, run in systems.items()}  # which warms up, too
    wall: dict[str, list[float]] = {name: [] for name in systems}
    busy: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(arguments.repeats):
        for name, run in systems.items():
            start, before = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - start)
            busy[name].append(time.process_time() - before)
    print(f"\n{len(documents)} texts, all-MiniLM-L6-v2, at most 256 tokens; median of {arguments.repeats}\n")
    print(f"| system | documents/s | times {REFERENCE} (processor) | least cosine | nDCG@10 |")
    print("|---|---|---|---|---|", flush=True)
    for name in systems:
        cosine = float((vectors[name] * vectors[REFERENCE]).sum(1).min())
        ratio, share = median_ratio(wall[REFERENCE], wall[name]), median_ratio(busy[REFERENCE], busy[name])
        measured = "-"
        if arguments.quality and name in chosen:
            backend, dtype = chosen[name]
            measured = f"{quality(models[backend], dtype, arguments.quality, arguments.every):.4f}"
        rate = len(documents) / statistics.median(wall[name])
        print(f"| {name} | {rate:.1f} | {ratio:.2f} ({share:.2f}) | {cosine:.5f} | {measured} |", flush=True)


if __name__ == "__main__":
    main()
