"""Rankings by hops of `hyperseek evaluate --hierarchy`, and nodes that ask with their own points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperseek.cli._echo import echo, echo_json

if TYPE_CHECKING:
    from rich.console import Console

    from hyperseek._ancestors import Hierarchy
    from hyperseek.evaluation import Comparison, Evaluation, HierarchyReport, Ranking
    from hyperseek.index import Index
    from hyperseek.types import Qrels, QueryOptions

Compared = tuple["list[Evaluation]", "Comparison"]


def measure_hops(
    hierarchy: Hierarchy,
    rankings: Sequence[Ranking],
    qrels: Qrels,
    names: Sequence[str],
    baseline: str | None,
    statistics: Mapping[str, Any],
    *,
    allow_unlike: bool = False,
) -> dict[str, Compared]:
    """Evaluate and compare rankings for each range of hops that has ancestors."""
    from hyperseek.evaluation import ancestor_hops, compare, evaluate_by_hops

    hops = ancestor_hops(hierarchy, qrels)
    found = [evaluate_by_hops(ranking, qrels, hops, measures=names) for ranking in rankings]
    return {
        name: (parts, compare(parts, baseline=baseline, allow_unlike=allow_unlike, **statistics))
        for name in found[0]
        for parts in [[each[name] for each in found]]
    }


def show_hops(console: Console, hops: Mapping[str, Compared]) -> None:
    """Print one table for each range of hops."""
    for name, (_, comparison) in hops.items():
        counted = comparison.sections[0].queries
        console.print(f"\nancestors {name} {'hop' if name == '1' else 'hops'} away, {counted:,} queries", style="bold")
        console.print(comparison.model_copy(update={"recorded": {}, "notes": ()}))


def plain_result(
    evaluations: Sequence[Evaluation], comparison: Comparison, hops: Mapping[str, Compared] | None = None
) -> dict[str, Any]:
    """Return evaluations, their comparison and, where there are any, those by hops as plain values."""
    return {
        "evaluations": [evaluation.model_dump(mode="json") for evaluation in evaluations],
        "comparison": comparison.model_dump(mode="json"),
        **({"hops": _plain_hops(hops)} if hops else {}),
    }


def _plain_hops(hops: Mapping[str, Compared]) -> dict[str, Any]:
    return {name: plain_result(*compared) for name, compared in hops.items()}


def write_hops(folder: Path, hops: Mapping[str, Compared]) -> None:
    """Write `hops.json` and `hops.md`."""
    from hyperseek._files import atomic_write, write_json

    write_json(folder / "hops.json", _plain_hops(hops))
    with atomic_write(folder / "hops.md") as file:
        file.writelines(f"## {name}\n\n{comparison.to_markdown()}\n" for name, (_, comparison) in hops.items())


def evaluate_nodes(
    named: Sequence[tuple[str, Path]],
    hierarchy: str,
    console: Console,
    *,
    names: Sequence[str],
    k: int,
    sample: int,
    radius_weight: float | None,
    pairs: Path | None,
    levels: bool,
    options: QueryOptions,
    baseline: str | None,
    statistics: Mapping[str, Any],
    allow_unlike: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Let nodes ask by their points: rankings of ancestors by hops, and reports of the indexes."""
    from hyperseek._files import write_json
    from hyperseek.data.hierarchy.edges import open_hierarchy
    from hyperseek.evaluation import compare, measure_hierarchy, write_results
    from hyperseek.index import Index

    indexes = {name: Index.open(path) for name, path in named}
    first = next(iter(indexes.values()))
    opened = open_hierarchy(first, hierarchy)
    rankings, qrels = _rank(indexes, opened, k, sample, int(statistics["seed"]), options, levels=levels)
    evaluations = [ranking.evaluate(qrels, measures=names) for ranking in rankings]
    comparison = compare(evaluations, baseline=baseline, allow_unlike=allow_unlike, **statistics)
    hops = measure_hops(opened, rankings, qrels, names, baseline, statistics, allow_unlike=allow_unlike)
    settings: dict[str, Any] = {name: statistics[name] for name in ("confidence", "resamples", "seed")}
    settings["resamples"] = min(1000, settings["resamples"])
    weights: dict[str, Any] = {} if radius_weight is None else {"weights": radius_weight}
    reports = {
        name: measure_hierarchy(
            index,
            opened,
            sample=sample,
            pairs_folder=pairs,
            options=options if index.space.levels > 1 else None,
            **weights,
            **settings,
        )
        for name, index in indexes.items()
    }
    described = {name: report.model_dump(mode="json") for name, report in reports.items()}
    if output is not None:
        write_results(output, rankings, evaluations, comparison)
        write_hops(output, hops)
        write_json(output / "hierarchy.json", described)
    console.print(comparison)
    show_hops(console, hops)
    if as_json:
        echo_json({**plain_result(evaluations, comparison, hops), "hierarchy": described}, indent=2)
        return
    for name, report in reports.items():
        _show_report(name, report)


def _rank(
    indexes: Mapping[str, Index],
    hierarchy: Hierarchy,
    k: int,
    sample: int,
    seed: int,
    options: QueryOptions,
    *,
    levels: bool,
) -> tuple[list[Ranking], Qrels]:
    from hyperseek.errors import InputError
    from hyperseek.evaluation import ancestor_qrels, node_scorer, rank_nodes
    from hyperseek.evaluation.hierarchy_rankings import at_levels, sample_nodes, scorers_at_levels

    first, *others = indexes.values()
    for other in others:
        if other.ids != first.ids:
            raise InputError(f"the indexes {first.path} and {other.path} hold different documents; compare equal ones")
    drawn = sample_nodes(hierarchy, first.ids, sample=sample, seed=seed)
    qrels = ancestor_qrels(hierarchy, drawn, first.ids)
    rankings = []
    for name, index in indexes.items():
        asked = options if index.space.levels > 1 else None
        scorer = node_scorer(index, list(qrels), asked)
        if levels and index.space.levels > 1:
            for pair, placed in scorers_at_levels(scorer).items():
                system = {"level": pair[0], "document_level": pair[1], **options}
                rankings.append(rank_nodes(index, placed, qrels, k=k, name=at_levels(name, pair), system=system))
        else:
            rankings.append(rank_nodes(index, scorer, qrels, k=k, name=name, system=dict(asked or {})))
    return rankings, qrels


def _show_report(name: str, report: HierarchyReport) -> None:
    echo()
    echo(f"{name}: {report.nodes:,} of {report.documents:,} documents are nodes; {report.sampled:,} sampled, seed "
         f"{report.seed}")  # fmt: skip
    for order in report.radii:
        shares = ", ".join(f"{hops}: {share.share:.3f}" for hops, share in order.by_hops.items())
        echo(
            f"radii at level {order.level}: Spearman with depth {order.spearman:.3f} {_ends(order.spearman_interval)}; "
            f"ancestors nearer to the origin {order.ordered.share:.3f} {_ends(order.ordered.interval)}, by hops "
            f"{shares}"
        )
    for pair in report.pairs:
        scores = pair.scores
        echo(
            f"pairs at level {pair.level} with {pair.document_level}, {pair.negatives} negatives: F1 {scores.f1:.3f} "
            f"{_ends(scores.f1_interval)}, precision {scores.precision:.3f}, recall {scores.recall:.3f}; radius weight "
            f"{scores.weight:g}, threshold {scores.threshold:.4g}"
        )
    broad = report.broad
    if broad is not None:
        for level in broad.levels:
            echo(f"ancestors above leaves at level {level.level}: {level.share:.3f} {_ends(level.interval)}")
        if broad.difference is not None and broad.difference_interval is not None and broad.p_value is not None:
            p_value = "<0.001" if broad.p_value < 0.001 else f"{broad.p_value:.3f}"
            echo(
                f"level 1 minus level {broad.levels[-1].level}: {broad.difference:+.3f} "
                f"{_ends(broad.difference_interval)}, p {p_value}, {broad.ancestors:,} ancestors of "
                f"{broad.nodes:,} nodes"
            )
    for what, reason in report.left_out.items():
        echo(f"no {what}: {reason}", err=True)


def _ends(interval: tuple[float, float]) -> str:
    return f"({interval[0]:.3f} to {interval[1]:.3f})"
