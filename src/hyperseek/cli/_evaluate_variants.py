"""Slices, perturbed queries and pools of `hyperseek evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from hyperseek.cli._evaluate_rankings import System
    from hyperseek.data import Dataset
    from hyperseek.evaluation import Evaluation, QuerySlice, Ranking, Robustness
    from hyperseek.types import Qrels

SliceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--slice",
        help="Compare over slices of the queries too: length, overlap, documents, relevant, hardness[:SYSTEM], "
        "field:NAME, file:IDS; repeat.",
    ),
]
BinsOption: TypeAlias = Annotated[int, typer.Option(min=2, help="Parts into which --slice splits numbers.")]
PerturbOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="Measure the drop on perturbed queries too: typos[:WORDS], typo-insert, typo-delete, typo-substitute, "
        "typo-swap, typo-qwerty, order, word-swap, keywords[:LANGUAGE], synonyms:FILE, paraphrases:FILE; repeat."
    ),
]
PoolOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Write what people should judge: .jsonl, .csv, or .html, a page to judge on."),
]
PoolDepthOption: TypeAlias = Annotated[int, typer.Option(min=1, help="Top ranks of each system in --pool.")]
PoolJudgedOption: TypeAlias = Annotated[
    bool, typer.Option("--pool-judged", help="Put documents into --pool that are judged already, too.")
]


def check_perturbations(kinds: Sequence[str]) -> None:
    """Raise an error for a perturbation that cannot be made, before the first search."""
    from hyperseek.evaluation import perturb

    for kind in kinds:
        perturb((), kind)


def sliced(
    slices: Sequence[str],
    judged: Qrels,
    dataset: Dataset | None,
    split: str,
    rankings: Sequence[Ranking],
    baseline: str | None,
    bins: int,
) -> tuple[QuerySlice, ...]:
    """Return the slices that were asked for; hardness is by the baseline's ranks unless it names a system."""
    from hyperseek.evaluation import slice_queries

    first = sorted(rankings, key=lambda ranking: baseline is not None and ranking.name != baseline)  # stable
    return slice_queries(slices, judged, dataset=dataset, split=split, rankings=first, bins=bins)


def measured_robustness(
    kinds: Sequence[str],
    dataset: Dataset,
    split: str,
    systems: Callable[[Dataset], list[System]],
    evaluations: Sequence[Evaluation],
    baseline: str | None,
    statistics: dict[str, Any],
) -> Robustness:
    """Ask the systems perturbed queries, one kind after the other."""
    from hyperseek.evaluation import measure_robustness, perturbed_dataset

    found, queries = {}, {}
    for kind in kinds:
        changed, queries[kind] = perturbed_dataset(dataset, kind, split=split, seed=statistics["seed"])
        judged = changed.qrels(split)
        rankings = [rank(name) for name, rank in systems(changed)]
        found[kind] = [ranking.evaluate(judged, measures=evaluations[0].measures) for ranking in rankings]
    return measure_robustness(evaluations, found, queries, baseline=baseline, **statistics)


def write_robustness(folder: Path, robustness: Robustness) -> None:
    """Write `robustness.json`."""
    from hyperseek._files import write_json

    write_json(folder / "robustness.json", robustness.model_dump(mode="json"))


def written_pool(
    path: Path, rankings: Sequence[Ranking], dataset: Dataset, split: str, depth: int, seed: int, *, judged: bool
) -> None:
    """Write a pool of the rankings, and say how large it is."""
    from hyperseek.cli._echo import echo
    from hyperseek.evaluation import make_pool, write_pool

    items = make_pool(rankings, dataset, split=split, depth=depth, judged=judged, seed=seed)
    write_pool(items, path, name=f"{dataset.name}, {split}")
    queries = len({item.query_id for item in items})
    echo(f"wrote {path}: {len(items):,} documents of {queries:,} queries to judge", err=True)
