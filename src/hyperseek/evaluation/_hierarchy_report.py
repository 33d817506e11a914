"""How an index follows a hierarchy: radii by depth, ancestors told from others, broad levels that find the broad.

All of it is measured on stored points, so no text is encoded: a node asks with its own point. Spaces without levels
have one, and flat spaces have norms for radii.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field

from hyperseek._ancestors import Hierarchy
from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek._long_work import progress
from hyperseek.data.hierarchy import NEGATIVES, Negatives, NegativeSampler
from hyperseek.errors import InputError
from hyperseek.evaluation._hierarchy_measures import (
    WEIGHTS,
    AncestorPairs,
    Labelled,
    PairScores,
    RadiusOrder,
    classify_pairs,
    entity_pairs,
    radius_order,
    read_entity_pairs,
)
from hyperseek.evaluation._significance import Floats, bootstrap_intervals, paired_test
from hyperseek.evaluation.hierarchy_rankings import (
    level_pairs,
    node_scorer,
    sample_nodes,
    scorers_at_levels,
    stored_points,
)
from hyperseek.scoring import Scorer, vectors_of
from hyperseek.store.info import ROUNDING

if TYPE_CHECKING:
    from hyperseek.index import Index

_LEAVES = 20  # of each node, at most


class PairResult(Config):
    """Ancestors told from others, at a level of children and one of candidates.

    Attributes:
        level: Of children.
        document_level: Of candidates.
        negatives: `random` nodes, or `hard` ones, which are siblings of the child; or the name of the folder of pairs.
        scores: The result.
    """

    level: int
    document_level: int
    negatives: str
    scores: PairScores


class AncestorsFirst(Config):
    """Whether nodes of one level rank their ancestors above leaves near them.

    Attributes:
        level: The level; 1 in spaces without levels.
        share: Share of leaves that an ancestor ranks above, 0 to 1, ties as one half; the mean over ancestors, each of
            which has the leaves near all sampled nodes below it.
        interval: Its bootstrap interval over ancestors.
    """

    level: int
    share: float
    interval: tuple[float, float]


class BroadToNarrow(Config):
    """Whether broad levels find the broad.

    Attributes:
        nodes: Nodes that asked; each has ancestors, and leaves below itself or its nearest ancestor that has others.
        ancestors: Their ancestors. They are what intervals and test draw: the few general ones that most nodes share
            count once each.
        levels: From level 1.
        difference: Mean share at level 1 minus that at the last level; None without levels, like those below.
        difference_interval: Its bootstrap interval.
        p_value: Of a two-sided paired permutation test, ancestor by ancestor.
    """

    nodes: int
    ancestors: int
    levels: tuple[AncestorsFirst, ...]
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    p_value: float | None = None


class HierarchyReport(ShowsTables, Config):
    """How an index follows a hierarchy.

    Attributes:
        documents: Documents of the index.
        nodes: Those that are nodes of the hierarchy.
        sampled: Nodes with ancestors whose pairs were classified and that asked for leaves and ancestors.
        seed: Of the sample.
        radii: Radius and depth, level by level.
        pairs: Ancestors told from others, by levels and kind of negatives: equal levels, and children at the narrowest.
        broad: Ancestors against leaves; None where no sampled node has leaves near it.
        left_out: What was left out, and why.
    """

    documents: int
    nodes: int
    sampled: int
    seed: int
    radii: tuple[RadiusOrder, ...] = ()
    pairs: tuple[PairResult, ...] = ()
    broad: BroadToNarrow | None = None
    left_out: dict[str, str] = Field(default_factory=dict)

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        """Yield a table for each part that was measured."""
        hops = list(dict.fromkeys(number for order in self.radii for number in order.by_hops))
        radii = [
            [
                str(order.level),
                _with_interval(order.spearman, order.spearman_interval),
                _with_interval(order.ordered.share, order.ordered.interval),
                *(f"{order.by_hops[number].share:.3f}" if number in order.by_hops else "" for number in hops),
            ]
            for order in self.radii
        ]
        if radii:
            headings = ["level", "Spearman with depth", "all", *(f"{number} hops" for number in hops)]
            yield "radius and depth, and ancestors nearer to the origin", headings, radii
        pairs = [
            [
                str(pair.level),
                str(pair.document_level),
                pair.negatives,
                _with_interval(pair.scores.f1, pair.scores.f1_interval),
                f"{pair.scores.precision:.3f}",
                f"{pair.scores.recall:.3f}",
                f"{pair.scores.weight:g}",
                f"{pair.scores.threshold:.4g}",
            ]
            for pair in self.pairs
        ]
        if pairs:
            headings = ["level", "with level", "negatives", "F1", "precision", "recall", "radius weight", "threshold"]
            yield "ancestors told from others", headings, pairs
        if self.broad is not None:
            shares = [[str(one.level), _with_interval(one.share, one.interval)] for one in self.broad.levels]
            yield "ancestors above leaves", ["level", "share"], shares

    def _shown_remarks(self) -> Iterator[str]:
        yield f"{self.nodes:,} of {self.documents:,} documents are nodes; {self.sampled:,} sampled, seed {self.seed}"
        broad = self.broad
        if (
            broad is not None
            and broad.difference is not None
            and broad.difference_interval
            and broad.p_value is not None
        ):
            p_value = "<0.001" if broad.p_value < 0.001 else f"{broad.p_value:.3f}"
            yield (
                f"level 1 minus level {broad.levels[-1].level}: "
                f"{_with_interval(broad.difference, broad.difference_interval, sign='+')}, p {p_value}, "
                f"{broad.ancestors:,} ancestors of {broad.nodes:,} nodes"
            )
        for what, reason in self.left_out.items():
            yield f"no {what}: {reason}"

    def _frame_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each number that was measured, with its interval where there is one."""
        for order in self.radii:
            of = {"part": "radii", "level": order.level}
            low, high = order.spearman_interval
            yield {**of, "measure": "spearman", "value": order.spearman, "low": low, "high": high}
            low, high = order.ordered.interval
            yield {**of, "measure": "ordered", "value": order.ordered.share, "low": low, "high": high}
            for hops, share in order.by_hops.items():
                low, high = share.interval
                yield {**of, "measure": "ordered", "hops": hops, "value": share.share, "low": low, "high": high}
        for pair in self.pairs:
            of = {"part": f"pairs, {pair.negatives}", "level": pair.level, "document_level": pair.document_level}
            low, high = pair.scores.f1_interval
            yield {**of, "measure": "f1", "value": pair.scores.f1, "low": low, "high": high}
            yield {**of, "measure": "precision", "value": pair.scores.precision}
            yield {**of, "measure": "recall", "value": pair.scores.recall}
        for level in () if self.broad is None else self.broad.levels:
            low, high = level.interval
            of = {"part": "broad", "level": level.level}
            yield {**of, "measure": "share", "value": level.share, "low": low, "high": high}


def _with_interval(value: float, interval: tuple[float, float], sign: str = "") -> str:
    return f"{value:{sign}.3f} ({interval[0]:{sign}.3f} to {interval[1]:{sign}.3f})"


def measure_hierarchy(
    index: Index,
    hierarchy: Hierarchy,
    *,
    sample: int = 1000,
    negatives: int = 10,
    weights: float | Sequence[float] = WEIGHTS,
    pairs_folder: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> HierarchyReport:
    """Measure how the points of an index follow a hierarchy.

    Radii are those of all nodes. Pairs and leaves are those of a sample of nodes, of which one half chooses λ and the
    threshold of pairs, and the other is measured.

    Args:
        index: The documents; some are nodes.
        hierarchy: Of their ids.
        sample: Most nodes to draw, at least 2.
        negatives: Candidates that are no ancestors, per ancestor, at least 1.
        weights: Values of λ, as for `classify_pairs`.
        pairs_folder: Pairs of ids for validation and test, in HiT's form, as `prepare_hierarchy` writes them with
            `entities="id"`; None draws pairs.
        options: How nodes ask, in a space of levels: `relation` and `radius_weight`.
        confidence: Of the intervals.
        resamples: Of the intervals.
        seed: Of samples and intervals.

    Returns:
        The report.

    Raises:
        InputError: The points are sets of tokens, no document has an ancestor, a pair names no document, or a number
            is out of range.
        DataError: The pairs cannot be read.
        MissingExtraError: scipy is not installed.
    """
    if sample < 2 or negatives < 1:
        raise InputError(f"sample must be at least 2 and negatives at least 1; given {sample} and {negatives}")
    space = index.space
    if space.distance_name is None:
        raise InputError(f"a {space.kind!r} space has no distance between documents; give an index of single points")
    statistics: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    ids = index.ids
    pairs = AncestorPairs(hierarchy, ids)
    chosen = sample_nodes(hierarchy, pairs.names, sample=sample, seed=seed)
    left_out = {}
    orders = _orders(index, pairs, statistics)
    if not orders:
        left_out["radii"] = "all radii of a level are equal" if not space.unit_norm else "all vectors have norm 1"
    classes: tuple[PairResult, ...] = ()
    if pairs_folder is not None:
        kind = Path(pairs_folder).name
        classes = tuple(_classified(index, kind, *read_entity_pairs(pairs_folder), weights, statistics))
    elif len(chosen) < 2:
        left_out["pairs"] = "two nodes with ancestors are needed, one to choose the threshold and one to measure"
    else:
        classes = tuple(_classes(index, hierarchy, pairs, chosen, negatives, weights, statistics))
    broad = _broad(index, hierarchy, pairs, chosen, options, statistics)
    if broad is None:
        left_out["broad"] = "no sampled node has leaves near it that are documents"
    return HierarchyReport(
        documents=len(ids),
        nodes=len(pairs.names),
        sampled=len(chosen),
        seed=seed,
        radii=orders,
        pairs=classes,
        broad=broad,
        left_out=left_out,
    )


def _orders(index: Index, pairs: AncestorPairs, statistics: Mapping[str, Any]) -> tuple[RadiusOrder, ...]:
    space = index.space
    if space.unit_norm:
        return ()
    found = []
    for names, points in index.points():
        found.append((names, space.level_radii(vectors_of(points)).double()))
    kept = torch.tensor([name in pairs.place for names, _ in found for name in names])
    radii = torch.cat([part for _, part in found])[kept].numpy()  # in the order of the index, as the nodes are
    rounding = ROUNDING["float32" if space.hyperbolic else index.info.storage]
    orders = []
    with progress("radius and depth", space.levels, unit="levels") as bar:
        for level in range(1, space.levels + 1):
            orders.append(radius_order(pairs, radii[:, level - 1], level=level, rounding=rounding, **statistics))
            bar.advance()
    return tuple(order for order in orders if order is not None)


def _classes(
    index: Index,
    hierarchy: Hierarchy,
    nodes: AncestorPairs,
    chosen: Sequence[str],
    negatives: int,
    weights: float | Sequence[float],
    statistics: Mapping[str, Any],
) -> Iterator[PairResult]:
    half = len(chosen) // 2
    others = [name for name in hierarchy.nodes if name not in nodes.place]
    sampler = NegativeSampler(hierarchy, seed=statistics["seed"], without=others)
    for kind in NEGATIVES:
        drawn = [(name, _candidates(hierarchy, nodes, name, negatives, kind, sampler)) for name in chosen]
        yield from _classified(index, kind, dict(drawn[:half]), dict(drawn[half:]), weights, statistics)


def _classified(
    index: Index,
    kind: str,
    validation: Labelled,
    test: Labelled,
    weights: float | Sequence[float],
    statistics: Mapping[str, Any],
) -> Iterator[PairResult]:
    both = [*validation.items(), *test.items()]
    wanted = list(dict.fromkeys(other for name, listed in both for other in (name, *listed)))
    points, place = stored_points(index, wanted), {name: row for row, name in enumerate(wanted)}
    last = index.space.levels
    pairs = [(m, n) for m, n in level_pairs(last) if m in (n, last)]
    rows = [
        [(place[name], [place[other] for other in listed], list(listed.values())) for name, listed in part.items()]
        for part in (validation, test)
    ]
    with progress(f"pairs, {kind} negatives", len(pairs), unit="levels") as bar:
        for levels in pairs:
            parts = [entity_pairs(index.space, points, part, levels) for part in rows]
            scores = classify_pairs(*parts, weights=weights, **statistics)
            yield PairResult(level=levels[0], document_level=levels[1], negatives=kind, scores=scores)
            bar.advance()


def _candidates(
    hierarchy: Hierarchy, nodes: AncestorPairs, name: str, negatives: int, kind: Negatives, sampler: NegativeSampler
) -> dict[str, bool]:
    """Return the ancestors of a node, true, and `negatives` times as many others, as far as there are so many."""
    ancestors = [ancestor for ancestor in hierarchy.ancestors(name) if ancestor in nodes.place]
    others = sampler.sample(name, negatives * len(ancestors), kind)
    return dict.fromkeys(ancestors, True) | dict.fromkeys(others, False)


def _broad(
    index: Index,
    hierarchy: Hierarchy,
    nodes: AncestorPairs,
    chosen: Sequence[str],
    options: Mapping[str, Any] | None,
    statistics: Mapping[str, Any],
) -> BroadToNarrow | None:
    generator = np.random.default_rng(statistics["seed"])
    asked, lists = [], []
    for name in chosen:
        ancestors = [ancestor for ancestor in hierarchy.ancestors(name) if ancestor in nodes.place]
        leaves = _leaves_near(hierarchy, nodes, name)
        if leaves:
            drawn = [leaves[row] for row in generator.permutation(len(leaves))[:_LEAVES]]
            asked.append(name)
            lists.append((ancestors, drawn))
    if not asked:
        return None
    scorer = node_scorer(index, asked, options)
    levels = range(1, index.space.levels + 1)
    if len(levels) == 1:
        shares = [_ancestors_first(index, scorer, lists)]
    else:
        placed = scorers_at_levels(scorer, [(level, level) for level in levels])
        shares = [_ancestors_first(index, each, lists) for each in placed.values()]
    columns: Floats = np.stack(shares, axis=1)  # (ancestors, levels)
    intervals = bootstrap_intervals(columns, **statistics)
    found = tuple(
        AncestorsFirst(level=level, share=float(column.mean()), interval=tuple(ends.tolist()))
        for level, column, ends in zip(levels, columns.T, intervals, strict=True)
    )
    if len(levels) == 1:
        return BroadToNarrow(nodes=len(asked), ancestors=len(columns), levels=found)
    change: Floats = columns[:, 0] - columns[:, -1]
    [ends] = bootstrap_intervals(change, **statistics)
    [p_value] = paired_test("permutation", change, resamples=statistics["resamples"], seed=statistics["seed"])
    return BroadToNarrow(
        nodes=len(asked),
        ancestors=len(columns),
        levels=found,
        difference=float(change.mean()),
        difference_interval=tuple(ends.tolist()),
        p_value=float(p_value),
    )


def _leaves_near(hierarchy: Hierarchy, nodes: AncestorPairs, name: str) -> list[str]:
    """Return the leaves below a node, or else below its nearest ancestor that has others than the node."""
    for top in (name, *hierarchy.ancestors(name)):
        leaves = [
            below
            for below in hierarchy.descendants(top)
            if below != name and below not in hierarchy.children and below in nodes.place
        ]
        if leaves:
            return leaves
    return []


def _ancestors_first(index: Index, scorer: Scorer, lists: Sequence[tuple[list[str], list[str]]]) -> Floats:
    """Return for each ancestor the mean share of a query's leaves that score lower, over the queries below it."""
    scores = index.score(scorer, [ancestors + leaves for ancestors, leaves in lists])
    shares: dict[str, list[float]] = {}
    for (ancestors, _), own in zip(lists, scores, strict=True):
        leaves = np.array(own[len(ancestors) :])
        for ancestor, score in zip(ancestors, own, strict=False):
            shares.setdefault(ancestor, []).append(float(((score > leaves) + 0.5 * (score == leaves)).mean()))
    return np.array([fmean(found) for found in shares.values()])
