"""Which head an index gets: measured on queries that it was not fitted on, against doing nothing.

The best of many candidates looks better than it is (the winner's curse). So each candidate's gain has a lower bound
that holds for all of them at once, by a bootstrap of the largest studentised difference, and a candidate is proven only
if its bound is above 0.

Shapes: `n` queries, `m` candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from hyperseek._config import Config
from hyperseek._long_work import stop_here
from hyperseek._relevance import normalized_gain
from hyperseek.adapting._fitting import (
    Head,
    LowRank,
    Map,
    Material,
    Steps,
    Tuned,
    best_rows,
    ridge,
    targets_of,
    train,
)
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.plan import Feedback
from hyperseek.scoring import Scorer, vectors_of

_Floats = npt.NDArray[np.float64]

DEPTH = 10
"""Documents of a ranking that its nDCG reads."""

_RESAMPLES = 4000
# Queries beyond which one part is held out, instead of every fold in turn.
_MANY = 2000
_HELD_OUT = 500
_FOLDS = 5
# From here on contrastive fits are tried: with 20 pairs they lose 0.05, with some hundreds they gain.
_ENOUGH = 200
# What the identity counts for in a ridge, in queries: of 3, 10 and 30 the least that lost significantly nowhere.
STRENGTH = 10.0
_SHARES = (0.25, 0.5, 0.75, 1.0)


class Gain(Config):
    """A difference of nDCG@10 to the search before, over queries that were not fitted on.

    Attributes:
        name: Of the candidate or of the collection.
        before: nDCG@10 of the index as it is.
        gain: Mean difference.
        low: Lower end of its 95 % interval; of candidates, the bound that holds for all of them at once.
        high: Upper end of its 95 % interval.
        queries: How many.
    """

    name: str
    before: float
    gain: float
    low: float
    high: float
    queries: int = Field(ge=0)


@dataclass(frozen=True)
class Candidate:
    """A head, how much of it, and whether feedback follows.

    Attributes:
        kind: One of `KINDS`, or `"none"`.
        share: What is kept of the head, in (0, 1].
        feedback: Whether the plan ends with `Feedback()`.
    """

    kind: str
    share: float = 1.0
    feedback: bool = False

    @property
    def name(self) -> str:
        """Its name in reports."""
        parts = [] if self.kind == "none" else [self.kind if self.share == 1 else f"{self.share:g} of {self.kind}"]
        return " + ".join([*parts, *(["feedback"] if self.feedback else [])]) or "nothing"

    def scorer(self, head: Head | None, material: Material, rows: Sequence[int]) -> Scorer:
        """Compile queries of a material as the candidate does."""
        if head is None:
            scorer = material.scorer(material.queries[list(rows)])
        else:
            scorer = head.scorer(material, rows, self.share)
        if not self.feedback:
            return scorer
        stage = Feedback()
        best = best_rows(scorer, material.documents, stage.n)
        weights = torch.full(best.shape, stage.weight / best.shape[1])
        return scorer.moved_towards(material.documents[best.flatten()], weights)


@dataclass(frozen=True)
class Fits:
    """How heads are fitted.

    Attributes:
        rank: Of low-rank maps and of adapters.
        depth: Hidden layers of q-nets.
        seed: Of all draws.
        steps: Of contrastive fits.
        examples: `(d,)` direction towards example documents; None for none.
        card: What the compiled card does; None for no card, or a model that compiles none.
    """

    rank: int = 32
    depth: int = 0
    seed: int = 0
    steps: int = 300
    examples: torch.Tensor | None = None
    card: Map | None = None


def _ridge(material: Material, rows: Sequence[int], fits: Fits) -> Head:
    weights = torch.ones(len(rows))
    return ridge(material.queries[list(rows)], targets_of(material, rows), weights=weights, strength=STRENGTH)


def _low_rank(material: Material, rows: Sequence[int], fits: Fits) -> Head:
    head = LowRank(material, rank=fits.rank, seed=fits.seed)
    train(material, rows, head, Steps(fits.steps, seed=fits.seed))
    return head.map()


def _linear(material: Material, rows: Sequence[int], fits: Fits) -> Head:
    head = LowRank(material, rank=None)
    train(material, rows, head, Steps(fits.steps, seed=fits.seed))
    return head.map()


def _examples(material: Material, rows: Sequence[int], fits: Fits) -> Head:
    assert fits.examples is not None
    return Map(torch.eye(len(fits.examples)), fits.examples)


def _card(material: Material, rows: Sequence[int], fits: Fits) -> Head:
    assert fits.card is not None
    return fits.card


def _card_ridge(material: Material, rows: Sequence[int], fits: Fits) -> Head:
    assert fits.card is not None
    queries = fits.card(material.queries)
    moved = replace(material, queries=material.space.canonical(queries) if material.space.unit_norm else queries)
    return fits.card.then(cast("Map", _ridge(moved, rows, fits)))


def _q_net(material: Material, rows: Sequence[int], fits: Fits) -> Head:
    head = Tuned.q_net(material, depth=fits.depth, seed=fits.seed)
    train(material, rows, head, Steps(fits.steps, batch=64, rate=1e-4, seed=fits.seed))
    return head


def _lora(material: Material, rows: Sequence[int], fits: Fits) -> Head:
    head = Tuned.adapters(material, rank=fits.rank, seed=fits.seed)
    train(material, rows, head, Steps(min(fits.steps, 3 * len(rows)), batch=32, rate=1e-4, seed=fits.seed))
    return head


KINDS: Mapping[str, Callable[[Material, Sequence[int], Fits], Head]] = {
    "ridge": _ridge,
    "low_rank": _low_rank,
    "linear": _linear,
    "examples": _examples,
    "card": _card,
    "card_ridge": _card_ridge,
    "qnet": _q_net,
    "lora": _lora,
}
"""The kinds of heads, and how each is fitted."""

_WHOLE = ("ridge", "card_ridge")  # held at the identity by what it is


def kinds_for(queries: int, *, examples: bool = False, card: bool = False) -> tuple[str, ...]:
    """Return the kinds that are tried where none is named.

    Args:
        queries: How many there are to fit on.
        examples: Whether there are example documents.
        card: Whether the model compiles the card that was given.

    Returns:
        Names of `KINDS`.
    """
    many = ("low_rank", "linear") if queries >= _ENOUGH else ()
    return ("ridge", *many, *(("examples",) if examples else ()), *(("card", "card_ridge") if card else ()))


def checked_kinds(kinds: Sequence[str], *, examples: bool, card: bool) -> tuple[str, ...]:
    """Return kinds that a caller named, or raise InputError or UnknownNameError."""
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError("kind of head", kind, KINDS)
    if "examples" in kinds and not examples:
        raise InputError("the kind 'examples' moves queries towards example documents; give a card that has some")
    if not card and not {"card", "card_ridge"}.isdisjoint(kinds):
        raise InputError(
            "the kinds 'card' and 'card_ridge' start from a compiled card; give --card and a model of cards"
        )
    return tuple(dict.fromkeys(kinds))


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        candidate: The candidate; `"none"` without feedback for the index as it is.
        head: Its head; None for none.
        proven: Whether its gain is proven on these queries; else it is one of those that gained elsewhere.
        gains: Of all candidates, on queries that they were not fitted on.
        fitted: How many queries the head was fitted on.
        seconds: That fitting and choosing took.
    """

    candidate: Candidate
    head: Head | None
    proven: bool
    gains: Sequence[Gain]
    fitted: int
    seconds: float


NOTHING = Candidate("none")
DEFAULT = Candidate("ridge")
"""What may be chosen unproven: it gained elsewhere."""

PRIORS: Mapping[Candidate, tuple[float, float]] = {
    DEFAULT: (0.008, 0.01),
    Candidate("none", feedback=True): (0.001, 0.01),
    Candidate("ridge", feedback=True): (0.008, 0.01),
}
"""The mean and the deviation of what candidates gained with 20 pairs on each of the collections of docs/LOG.md."""

# What is assumed of the gains of others, before they are measured: nothing, within this deviation.
_OPEN = (0.0, 0.05)


def choose(material: Material, kinds: Sequence[str], fits: Fits, *, certain: bool) -> Choice:
    """Fit every kind, measure it on queries that it was not fitted on, and choose.

    Args:
        material: Queries, judgements and documents.
        kinds: Names of `KINDS`.
        fits: How to fit.
        certain: Whether an unproven candidate is never chosen.

    Returns:
        The choice: of those that are proven and, unless `certain`, the default, the candidate whose expected gain is
        highest, if it is above 0; else nothing.
    """
    start = time.perf_counter()
    candidates = [
        Candidate("none", feedback=True),
        *(
            Candidate(kind, share, feedback)
            for kind in kinds
            for share in (_SHARES if kind not in _WHOLE else (1.0,))
            for feedback in (False, True)
        ),
    ]
    rows, differences = [], []
    kept: dict[str, Head] = {}
    parts = list(folds(material, seed=fits.seed))
    for held, fitted in parts:
        kept = {}
        for kind in kinds:
            stop_here()
            kept[kind] = KINDS[kind](material, fitted, fits)
        before = gains(NOTHING.scorer(None, material, held), material, held)
        columns = [gains(one.scorer(kept.get(one.kind), material, held), material, held) for one in candidates]
        differences.append(np.stack(columns, axis=1) - before[:, None])
        rows.append(before)
    all_before, matrix = np.concatenate(rows), np.concatenate(differences)
    bounds = lower_bounds(matrix, seed=fits.seed)
    # No gain is below -1; minus infinity is no JSON.
    measured = [
        gain_of(one.name, all_before, matrix[:, place], seed=fits.seed).model_copy(update={"low": max(-1.0, low)})
        for place, (one, low) in enumerate(zip(candidates, bounds.tolist(), strict=True))
    ]
    expected = [expected_gain(one, matrix[:, place]) for place, one in enumerate(candidates)]
    able = [place for place, one in enumerate(candidates) if bounds[place] > 0 or (not certain and one == DEFAULT)]
    best = max(able, key=expected.__getitem__, default=None)
    chosen = NOTHING if best is None or expected[best] <= 0 else candidates[best]
    proven = best is not None and bool(bounds[best] > 0)
    everything = list(range(len(material)))
    head, fitted_on = None, 0
    if chosen.kind != "none":
        # Where one part was held out, what was measured is what is kept.
        alone = len(parts) == 1
        head = kept[chosen.kind] if alone else KINDS[chosen.kind](material, everything, fits)
        fitted_on = len(parts[0][1]) if alone else len(everything)
    return Choice(chosen, head, proven, measured, fitted_on, time.perf_counter() - start)


def expected_gain(candidate: Candidate, differences: _Floats) -> float:
    """Return what a candidate is expected to gain, given `(n,)` differences: few of them change the prior little."""
    mean, deviation = PRIORS.get(candidate, _OPEN)
    if len(differences) < 3:
        return mean
    # One query more of the prior's own spread, since few differences may all be 0 by chance.
    variance = (differences.var(ddof=1) + deviation**2) / len(differences)
    trust = deviation**2 / (deviation**2 + variance)
    return float((1 - trust) * mean + trust * differences.mean())


def gains(scorer: Scorer, material: Material, rows: Sequence[int]) -> _Floats:
    """Return the nDCG@10 of each of some queries, as they are compiled."""
    found = best_rows(scorer, material.documents, DEPTH).tolist()
    return np.array(
        [
            normalized_gain([graded.get(row, 0) for row in best], list(graded.values()), DEPTH)
            for best, graded in zip(found, (material.grades[row] for row in rows), strict=True)
        ]
    )


def gain_of(name: str, before: _Floats, differences: _Floats, *, seed: int = 0) -> Gain:
    """Return a mean difference with its bootstrap interval."""
    means = _drawn_means(differences[:, None], seed)[:, 0]
    low, high = np.quantile(means, [0.025, 0.975])
    return Gain(
        name=name,
        before=float(before.mean()),
        gain=float(differences.mean()),
        low=float(low),
        high=float(high),
        queries=len(differences),
    )


def lower_bounds(differences: _Floats, *, confidence: float = 0.95, seed: int = 0) -> _Floats:
    """Return lower bounds of the means of `(n, m)` differences, which hold for all columns at once.

    The bound is mean - c · standard error, with c the quantile of the largest studentised error of a bootstrap, whose
    samples have standard errors of their own; columns that are much alike cost little.

    Args:
        differences: `(n, m)`.
        confidence: That no true mean is below its bound.
        seed: Of the bootstrap.

    Returns:
        `(m,)`; minus infinity for fewer than three queries.
    """
    count, columns = differences.shape
    if count < 3:
        return np.full(columns, -np.inf)
    errors = differences.std(axis=0, ddof=1) / np.sqrt(count)
    centred = differences - differences.mean(axis=0)
    means = _drawn_means(np.concatenate([centred, centred**2], axis=1), seed)
    spread = np.sqrt(np.maximum(means[:, columns:] - means[:, :columns] ** 2, 0) / (count - 1))
    # A sample of the few queries that do not differ at all has no spread; a floor keeps it from deciding.
    known = np.where(errors > 0, np.maximum(spread, errors / 4), np.inf)
    largest = (means[:, :columns] / known).max(axis=1)
    bounds: _Floats = differences.mean(axis=0) - np.quantile(largest, confidence) * errors
    return bounds


def _drawn_means(differences: _Floats, seed: int) -> _Floats:
    """Return the `(resamples, m)` means of bootstrap samples."""
    generator, count = np.random.default_rng(seed), len(differences)
    step = max(1, 2_000_000 // count)
    drawn = [
        generator.multinomial(count, np.full(count, 1 / count), size=min(step, _RESAMPLES - done)) @ differences
        for done in range(0, _RESAMPLES, step)
    ]
    means: _Floats = np.concatenate(drawn) / count
    return means


def folds(material: Material, *, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield queries to measure on and queries to fit on.

    Queries that share a relevant document stay together, where that leaves several parts: a head that has seen the
    document would look too good.

    Args:
        material: The queries.
        seed: Of the order.

    Yields:
        Both lists of rows; each query is measured once, or one part of 500 where there are more than 2,000.
    """
    groups = _groups(material)
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    count, many = len(material), len(material) > _MANY
    size = _HELD_OUT if many else -(-count // min(_FOLDS, max(2, len(groups))))
    parts: list[list[int]] = [[]]
    for group in order:
        if len(parts[-1]) >= size:
            parts.append([])
        parts[-1] += groups[group]
    for held in parts[:1] if many else parts:
        left = set(held)
        fitted = [row for row in range(count) if row not in left]
        if fitted:
            yield held, fitted


def _groups(material: Material) -> list[list[int]]:
    parent = list(range(len(material)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    first: dict[int, int] = {}
    for row in range(len(material)):
        for document in material.relevant(row):
            parent[root(row)] = root(first.setdefault(document, row))
    groups: dict[int, list[int]] = {}
    for row in range(len(material)):
        groups.setdefault(root(row), []).append(row)
    # Where most queries share documents, as in pooled judgements of a narrow subject, nothing could be held out.
    largest = max(map(len, groups.values()), default=0)
    return list(groups.values()) if 2 * largest <= len(material) else [[row] for row in range(len(material))]


def towards(material: Material, examples: torch.Tensor, *, share: float = 0.2) -> torch.Tensor:
    """Return the shift of queries towards example documents (Rocchio): from the mean of the index to theirs.

    Args:
        material: The index.
        examples: `(e, d)` vectors of the example documents.
        share: Its length, relative to the distance of the means.

    Returns:
        `(d,)`.
    """
    return share * (examples.float().mean(dim=0) - vectors_of(material.documents).float().mean(dim=0))
