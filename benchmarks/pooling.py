"""Poolings of a hybrid hyperbolic encoder on a frozen MiniLM: before the lift, and of lifted tokens.

    python benchmarks/pooling.py --output FOLDER [--dimensions 32 128] [--seeds 0 1]

Trained on SciFact's train split and measured on its test split (nDCG@10), documents of 128 tokens. Token states are
computed once. Every head starts with its points (or lifted tokens) at a radius of about 1, and has the same number of
parameters but for attentive pooling, which has its own maps. `cosine, mean` and `euclidean, mean` are flat twins.
Temperature is learned. Each pooling's rate and first temperature are chosen at the first dimension, on a tenth of the
training queries that is never trained on. Systems that OUTPUT has results of are not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import Tensor

from _frozen import Judged, best_documents, descend
from _hardware import describe_hardware
from _trees import DATA
from hyperseek._files import write_json
from hyperseek.data import open_dataset
from hyperseek.evaluation import calculate, paired_test
from hyperseek.models import LorentzHead, Retriever, load
from hyperseek.training import ContrastiveConfig, LossesConfig, ScoredBatch
from hyperseek.training.losses import Objective

SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "cosine, mean": ("mean", {"distance": "cosine"}),
    "euclidean, mean": ("mean", {"distance": "euclidean"}),
    "mean, then lift": ("mean", {}),
    "mean, then lift, trained curvature": ("mean", {"trainable_curvature": True}),
    "first token, then lift": ("cls", {}),
    "lift, then first token": ("tokens", {"pooling": "hyp_cls"}),
    "lift, then mean": ("tokens", {"pooling": "hyp_mean"}),
    "lift, then outward midpoint": ("tokens", {"pooling": "hyp_outward_einstein_midpoint"}),
    "lift, then outward midpoint, radius kept": (
        "tokens",
        {"pooling": "hyp_outward_einstein_midpoint", "pooling_keep_radius": True},
    ),
    "lift, then attentive mean": ("tokens", {"pooling": "hyp_attentive_mean"}),
}
Choice: TypeAlias = tuple[float, float]
"""Rate and first temperature."""
LENGTH, EXTRA, BATCH = 128, 128, 32
RATES, TEMPERATURES = (3e-3, 1e-2), (0.05, 0.2)


def token_states(retriever: Retriever, texts: Sequence[str], side: str) -> list[Tensor]:
    """Return `(tokens, 384)` half-precision states of each text."""
    states: list[Tensor] = [torch.empty(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        with torch.inference_mode():
            features = retriever.preprocess([texts[row] for row in rows], side)  # type: ignore[arg-type]
            features = retriever.forward(features, side, stop=1)  # type: ignore[arg-type]
        for row, own, mask in zip(rows, features["token_embeddings"], features["attention_mask"], strict=True):
            states[row] = own[mask.bool()].half().clone()
    return states


def features_of(states: Sequence[Tensor], kind: str) -> dict[str, Tensor]:
    """Return what a head reads of some texts."""
    if kind == "cls":
        return {"sentence_embedding": torch.stack([own[0] for own in states]).float()}
    if kind == "mean":
        return {"sentence_embedding": torch.stack([own.float().mean(0) for own in states])}
    padded = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True).float()
    lengths = torch.tensor([len(own) for own in states])
    return {"token_embeddings": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}


def run(head: LorentzHead, states: Sequence[Tensor], kind: str, side: str) -> Tensor:
    """Return what the head makes of some texts."""
    rows: Tensor = head(features_of(states, kind), task=side)["sentence_embedding"]
    return rows


def typical_norm(states: Sequence[Tensor], kind: str) -> float:
    features = features_of(states[:200], "mean" if kind == "mean" else "cls")["sentence_embedding"]
    if kind == "tokens":
        features = torch.cat([own.float() for own in states[:200]])
    return float(torch.linalg.vector_norm(features, dim=-1).mean())


@dataclass(frozen=True)
class Data:
    """Token states of queries, rows of their positives, and token states of all documents."""

    queries: list[Tensor]
    positives: list[list[int]]
    documents: list[Tensor]


def train(head: LorentzHead, kind: str, data: Data, choice: Choice, *, steps: int, seed: int) -> None:
    """Train a head; the rate falls to zero."""
    queries, positives, documents = data.queries, data.positives, data.documents
    rate, temperature = choice
    objective = Objective(
        LossesConfig.model_validate(
            {"contrastive": ContrastiveConfig(temperature=temperature, learned_temperature=True)}
        )
    )
    draw = np.random.default_rng(seed)

    def batches() -> Iterator[ScoredBatch]:
        while True:
            rows = draw.choice(len(queries), BATCH, replace=False)
            own = [int(draw.choice(positives[row])) for row in rows]
            chosen, places = np.unique([*own, *draw.choice(len(documents), EXTRA)], return_inverse=True)
            known = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(positives[row]) for row in rows], batch_first=True, padding_value=-1
            )
            yield ScoredBatch(
                scorer=head.scorer(run(head, [queries[row] for row in rows], kind, "query")),
                points=head.points(run(head, [documents[row] for row in chosen], kind, "document")),
                documents=torch.from_numpy(chosen),
                items=torch.from_numpy(places[:BATCH, None]),
                known=known,
                labels=torch.full((BATCH, 1), torch.nan),
            )

    descend(head, objective, batches(), rate=rate, steps=steps)


@torch.inference_mode()
def measure(head: LorentzHead, kind: str, documents: list[Tensor], queries: list[Tensor], judged: Judged) -> Any:
    """Return nDCG@10 of every query and the mean distance of the documents from the origin."""
    rows = torch.cat([run(head, documents[at : at + 64], kind, "document") for at in range(0, len(documents), 64)])
    scorer = head.scorer(run(head, queries, kind, "query"))
    found = best_documents(scorer.score(head.points(rows)), judged.ids, judged.documents)
    radius = 0.0
    if head.curved:
        unit = head.space.radius_squared**0.5
        radius = float(torch.asinh(torch.linalg.vector_norm(rows[:, 1:], dim=1) / unit).mean()) * unit
    return dict(calculate(found, judged.qrels, "nDCG@10")["nDCG@10"]), radius


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args()
    print(describe_hardware(), flush=True)
    data, retriever = open_dataset(DATA / "scifact"), load("minilm", device="cpu")
    retriever.model.max_seq_length = LENGTH
    corpus = list(data.documents())
    documents = token_states(retriever, [document.full_text for document in corpus], "document")
    rows = {document.id: row for row, document in enumerate(corpus)}
    split = {
        name: [query for query in data.queries(name) if query.id in data.qrels(name)] for name in ("train", "test")
    }
    queries = {name: token_states(retriever, [query.text for query in own], "query") for name, own in split.items()}
    relevant, ids = data.qrels("train"), [query.id for query in split["train"]]
    positives = [[rows[name] for name, score in relevant[query.id].items() if score > 0] for query in split["train"]]
    kept = [row for row in range(len(ids)) if row % 10]
    trained = Data([queries["train"][row] for row in kept], [positives[row] for row in kept], documents)
    held = [queries["train"][row] for row in range(0, len(ids), 10)]
    tuned = Judged("scifact train", torch.empty(0), ids[::10], relevant, 0, list(rows))
    judged = Judged("scifact test", torch.empty(0), [q.id for q in split["test"]], data.qrels("test"), 0, list(rows))
    path = arguments.output / "pooling.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    for system, (kind, options) in SYSTEMS.items():
        if all(f"{system}|{dimension}" in results for dimension in arguments.dimensions):
            continue
        norm = typical_norm(documents, kind)

        def head(dimension: int, seed: int) -> LorentzHead:
            scale = (384 / dimension) ** 0.5 / norm  # noqa: B023
            return LorentzHead(384, dimension=dimension, norm_scale=scale, seed=seed, **options)  # noqa: B023

        def value(choice: Choice) -> float:
            own = head(arguments.dimensions[0], 100)
            train(own, kind, trained, choice, steps=arguments.steps // 2, seed=100)  # noqa: B023
            return float(np.mean(list(measure(own, kind, documents, held, tuned)[0].values())))  # noqa: B023

        choice = max(itertools.product(RATES, TEMPERATURES), key=value)
        print(f"{system}: rate and temperature {choice}", flush=True)
        for dimension in arguments.dimensions:
            runs = []
            for seed in arguments.seeds:
                start, own = time.perf_counter(), head(dimension, seed)
                before, _ = measure(own, kind, documents, queries["test"], judged)
                train(own, kind, trained, choice, steps=arguments.steps, seed=seed)
                after, radius = measure(own, kind, documents, queries["test"], judged)
                runs.append({"before": before, "after": after, "radius": radius})
                means = [round(float(np.mean(list(values.values()))), 4) for values in (before, after)]
                print(f"{system}: {dimension}/{seed}: {means}, {time.perf_counter() - start:.0f} s", flush=True)
            results[f"{system}|{dimension}"] = runs
            write_json(path, results)
    table(results, arguments.dimensions)


def table(results: dict[str, Any], dimensions: Sequence[int]) -> None:
    """Print nDCG@10, averaged over seeds, untrained and trained, and paired tests against the flat twin by cosine."""
    print("\n| | " + " | ".join(f"{d}: untrained | trained | radius" for d in dimensions) + " |")
    print("|---" * (3 * len(dimensions) + 1) + "|")
    for system in SYSTEMS:
        cells = []
        for dimension in dimensions:
            own, flat = results[f"{system}|{dimension}"], results[f"cosine, mean|{dimension}"]
            trained, twin = (np.mean([list(r["after"].values()) for r in runs], axis=0) for runs in (own, flat))
            p = paired_test("permutation", trained - twin)[0] if own is not flat else 1.0
            before = np.mean([list(r["before"].values()) for r in own])
            cells += [
                f"{before:.4f}",
                f"{trained.mean():.4f} (p {p:.3f})",
                f"{np.mean([r['radius'] for r in own]):.2f}",
            ]
        print(f"| {system} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
