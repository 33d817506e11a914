"""The rankings that `hyperseek evaluate` compares, and how those of hierarchies are measured by hops.

They are made by models, levels, plans, further indexes, BM25 and files; or nodes ask with their own points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hyperseek.cli._echo import echo, echo_json
from hyperseek.cli._search import hybrid_plan

if TYPE_CHECKING:
    from rich.console import Console

    from hyperseek._ancestors import Hierarchy
    from hyperseek.data import Dataset
    from hyperseek.evaluation import Comparison, Evaluation, HierarchyReport, Ranking, Robustness
    from hyperseek.index import Index
    from hyperseek.models import Retriever
    from hyperseek.plan import Plan
    from hyperseek.types import Qrels, QueryOptions

System: TypeAlias = "tuple[str, Callable[[str], Ranking]]"
"""A name, and the function that ranks under that name."""

SET = "{set}"
"""What stands for each of `--sets` in names of places."""


@dataclass(frozen=True)
class Asked:
    """What to search the index of a data set by.

    Attributes:
        models: Folders or names.
        plans: Files.
        hybrid: Whether to fuse full-text search with the model's.
        bm25: Whether to rank by BM25, too.
        bm25q: Whether to rank by BM25 with a weighted query side, too.
        engine: For the models' searches.
        options: Of the queries.
        card_field: Field of the queries' metadata that describes the card of each; None for no cards of their own.
        searching: Keywords of all rankings: split, k, and what is left out.
        load: Loads a model.
        backend: What runs the model of the index; None for torch.
        levels: Whether to search at all levels.
        beside: Further indexes of the same documents.
        candidates: File of the documents to rerank; None to search all.
    """

    models: list[str]
    plans: list[Path]
    hybrid: bool
    bm25: bool
    bm25q: bool
    engine: str
    options: QueryOptions
    card_field: str | None
    searching: dict[str, Any]
    load: Callable[[str], Retriever]
    backend: str | None
    levels: bool
    beside: list[Path]
    candidates: Path | None

    def systems(self, path: Path, dataset: Dataset, query_length: int | None, subset: str | None) -> list[System]:
        """Return what ranks the documents of a data set, by name."""
        from hyperseek.evaluation import rank_bm25, rank_candidates, rank_index
        from hyperseek.evaluation.candidates import candidates_of
        from hyperseek.index import Index
        from hyperseek.mining import BM25Settings
        from hyperseek.models.loading import set_query_length
        from hyperseek.plan import Plan

        index = Index.open(path, backend=self.backend)

        def opened(source: str | None) -> Index:
            chosen = index if source is None else Index.open(path, model=self.load(source))
            if query_length is not None:
                set_query_length(chosen.model, query_length)
            return chosen

        searching = self.searching
        if self.candidates is not None:
            searching = {**searching, "candidates": candidates_of(dataset, filled(self.candidates, subset))}
        how: dict[str, Any] = {"engine": self.engine, "options": self.options, **searching}

        def search(source: str | None, name: str, plan: Plan | None = None) -> Ranking:
            return rank_index(opened(source), dataset, name=name, plan=plan, card_field=self.card_field, **how)

        given: list[tuple[str, str | None]] = [*short_names(self.models)]
        given = given or [(Path(index.info.source or "index").name, None)]
        if self.levels:
            found = [_level_systems(name, partial(opened, source), dataset, index, how) for name, source in given]
            systems = [system for one in found for system in one]
        else:
            systems = [(name, partial(search, source)) for name, source in given]
        others = short_names([filled(other, subset) for other in self.beside])
        systems += [(name, partial(_rank_beside, Index.open(other), dataset, how)) for name, other in others]
        stages = [(file.stem, Plan.load(file)) for file in self.plans]
        if self.hybrid:
            stages.append(("hybrid", Plan(**hybrid_plan(self.searching["k"], self.engine))))
        systems += [(name, partial(search, next(iter(self.models), None), plan=plan)) for name, plan in stages]
        if self.bm25:
            systems.append(("BM25", partial(_named, rank_bm25, dataset, **searching)))
        if self.bm25q:
            settings = BM25Settings(query_weights="bm25")
            systems.append(("BM25Q", partial(_named, rank_bm25, dataset, settings=settings, **searching)))
        if self.candidates is not None:
            systems.append(("candidates", partial(_named, rank_candidates, dataset, **searching)))
        return systems


def _named(function: Callable[..., Ranking], *arguments: Any, **options: Any) -> Ranking:
    *given, name = arguments
    return function(*given, name=name, **options)


def short_names(paths: Sequence[Path | str]) -> list[tuple[str, str]]:
    """Pair each path with its last part, or with all of it if two have the same last part."""
    ends = [Path(path).name for path in paths]
    return [(str(path) if ends.count(end) > 1 else end, str(path)) for path, end in zip(paths, ends, strict=True)]


def file_systems(
    files: list[Path], subset: str | None, judged: Qrels, dataset: Dataset | None, split: str
) -> list[System]:
    """Return a system for each file of rankings, as `--runs` names them."""
    from hyperseek.evaluation import excluded_ids, rank_file

    excluded = excluded_ids(dataset.queries(split)) if files and dataset is not None else None
    return [
        (name, partial(_named, rank_file, filled(file, subset), judged, excluded=excluded))
        for name, file in short_names(files)
    ]


def _level_systems(
    name: str, opened: Callable[[], Index], dataset: Dataset, index: Index, how: Mapping[str, Any]
) -> list[System]:
    """Return a system for each pair of levels; the first that ranks encodes the queries for all."""
    from hyperseek.evaluation import rank_levels
    from hyperseek.evaluation.hierarchy_rankings import at_levels, level_pairs

    @cache
    def rankings() -> dict[str, Ranking]:
        return {ranking.name: ranking for ranking in rank_levels(opened(), dataset, name=name, **how)}

    return [(at_levels(name, pair), lambda own: rankings()[own]) for pair in level_pairs(index.space.levels)]


def _rank_beside(index: Index, dataset: Dataset, how: Mapping[str, Any], name: str) -> Ranking:
    """Search another index; one without levels has no options of levels, and may be compared with any."""
    from hyperseek.evaluation import rank_index

    if index.space.levels > 1:
        return rank_index(index, dataset, name=name, **how)
    ranking = rank_index(index, dataset, name=name, **{**how, "options": None})
    return replace(ranking, protocol=ranking.protocol.model_copy(update={"options": None}))


def filled(place: Path | str, subset: str | None) -> str:
    """Return a place with a set's name where `SET` stands; as it is without sets."""
    return str(place) if subset is None else str(place).replace(SET, subset)


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
    evaluations: Sequence[Evaluation],
    comparison: Comparison,
    hops: Mapping[str, Compared] | None = None,
    robustness: Robustness | None = None,
) -> dict[str, Any]:
    """Return evaluations, their comparison and, where there are any, those by hops and robustness as plain values."""
    return {
        "evaluations": [evaluation.model_dump(mode="json") for evaluation in evaluations],
        "comparison": comparison.model_dump(mode="json"),
        **({"hops": _plain_hops(hops)} if hops else {}),
        **({} if robustness is None else {"robustness": robustness.model_dump(mode="json")}),
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
    from hyperseek.data.hierarchy import open_hierarchy
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
