"""The open index that searches share, a search on it, the candidates that its stages hand on, and their fusion."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek._machine import Kept
from hyperseek._order import NOTHING, best_positions, without_rounding
from hyperseek.errors import InputError, StoreError
from hyperseek.plan._rounding import longest_norm, product_scan, uneven_norms
from hyperseek.plan.exhaustive import exact_scores, whole_scan, wide_scan
from hyperseek.scoring import EMPTY_SCORE, Points, Scorer, Space
from hyperseek.store.attachments import Attached, Attachment, Attachments, open_attached
from hyperseek.store.snapshot import Snapshot
from hyperseek.types import QueryOptions

T = TypeVar("T")

KEPT_BYTES = 256 << 20
"""What the landmarks of surrogates may take together: 256 MiB. Beyond it the least recently used are forgotten."""

# How often to look for an attachment that a writer keeps replacing.
_ATTEMPTS = 5


class OpenIndex:
    """One version of an index with its attachments open: what all searches on it share.

    Args:
        folder: The index.
        snapshot: Its documents.
        compile: Compiles query texts with the model of a folder or name, None for the index' own.
        recompile: Compiles query texts with the model that searches, for stages with options of their own.
    """

    def __init__(
        self,
        folder: Path,
        snapshot: Snapshot,
        compile: Callable[[str | None, Sequence[str], QueryOptions], Scorer],
        recompile: Callable[[Sequence[str], QueryOptions], Scorer],
    ) -> None:
        self.folder = folder
        self.snapshot = snapshot
        self.compile = compile
        self.recompile = recompile
        self.attachments = Attachments.read(folder)
        self._kept = Kept(most_bytes=KEPT_BYTES)
        self._attached = Kept()  # no more than are in the list

    def keep(self, key: Hashable, make: Callable[[], T], *, size: Callable[[T], int]) -> T:
        """Return what was made for a key, making it where it is not kept, or no longer; see `KEPT_BYTES`."""
        return self._kept.get(key, make, size=size)

    def reread(self) -> None:
        """Read the list of attachments again, and close those that are no longer in it."""
        self.attachments = Attachments.read(self.folder)
        listed = {item.folder for item in self.attachments.items}
        self._attached.forget(lambda folder: folder not in listed)

    def attached(self, name: str | None = None, kind: str | None = None) -> Attached:
        """Return an attachment, open.

        Args:
            name: Its name; None for the newest.
            kind: Of the structure; None for any that searches go to without being told to, or that is named.

        Returns:
            The attachment.

        Raises:
            InputError: There is none of this kind.
            UnknownNameError: There is none of this name.
        """
        for attempt in range(_ATTEMPTS):
            record = self.attachments.get(name) if name is not None else self.newest(kind)
            if record is None or kind not in (None, record.kind):
                what = f"{name!r} is not a {kind}" if record is not None else f"it has no {kind or 'engine'}"
                raise InputError(
                    f"the index {self.folder} cannot be searched this way: {what}; build one: "
                    f"index.engines.build({'' if kind is None else repr(kind)})"
                )
            try:
                return self._attached.get(record.folder, partial(open_attached, self.folder, record, self.snapshot))
            except StoreError:
                # A writer may have put another one in its place since the list was read.
                self.reread()
                if attempt == _ATTEMPTS - 1 or record in self.attachments.items:
                    raise
        raise AssertionError("the loop returns or raises")

    def newest(self, kind: str | None = None) -> Attachment | None:
        """Return the attachment that was built last, of a kind or of those that need not be named; None for none."""
        if kind is None:
            return next(self.automatic(), None)
        return next((item for item in reversed(self.attachments.items) if item.kind == kind), None)

    def automatic(self) -> Iterator[Attachment]:
        """Yield the attachments that need not be named, newest first."""
        return (item for item in reversed(self.attachments.items) if item.is_automatic)

    def suitable(self, scorer: Scorer) -> Iterator[Attachment]:
        """Yield the attachments that need not be named and can search by a scorer, newest first."""
        return (item for item in self.automatic() if self.attached(item.name).structure.can_search(scorer))


@dataclass(frozen=True)
class Search:
    """A search for some queries.

    Attributes:
        index: What is searched.
        scorer: `Q` compiled queries.
        texts: Their texts; None where only the scorer was given.
        where: SQL that documents must meet; None for all.
        k: Documents that the search is to end with; of a stage with options of its own, those that it hands on.
        notes: Filled by stages with what they did, for explanations: numbers, averaged over queries.
        found: What a scan of all documents that may be found has found, if there was one; see `truth`.
        unwanted: `(Q, m)` rows of documents that are left out in the end, padded with `NOTHING`; None for none.
    """

    index: OpenIndex
    scorer: Scorer
    texts: Sequence[str] | None
    where: str | None
    k: int
    notes: dict[str, float] = field(default_factory=dict)
    found: list[Candidates] = field(default_factory=list)
    unwanted: Tensor | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The documents."""
        return self.index.snapshot

    @cached_property
    def allowed(self) -> npt.NDArray[np.bool_] | None:
        """`(N,)`: which documents may be found; None for all."""
        return None if self.where is None else self.snapshot.mask(self.where)

    @cached_property
    def allowed_rows(self) -> npt.NDArray[np.int64] | None:
        """Rows of the documents that may be found; None for all."""
        return None if self.allowed is None else np.flatnonzero(self.allowed)

    def with_options(self, options: QueryOptions | None) -> Search:
        """Return this search with its queries asked with other options; itself for None or the same ones."""
        if options is None or options == self.scorer.options:
            return self
        scorer = self.scorer.asked_with(options)
        if scorer is None:
            scorer = self.index.recompile(self.asked(), options)
        return replace(self, scorer=scorer, found=[])

    def at_most(self, n: int) -> int:
        """Return `n`, or the number of documents where that is less, but at least 1."""
        return min(n, max(1, len(self.snapshot)))

    def truth(self) -> Candidates:
        """Return the true best `k` documents of each query; scans for them only where no stage has done so."""
        if not self.found:
            self.scan(self.scorer, k=self.at_most(self.k))
        return self.found[0].first(self.k)

    def asked(self) -> Sequence[str]:
        """Return the queries' texts; InputError where there are none."""
        if self.texts is None:
            raise InputError("this plan reads the queries' texts, and only a scorer was given; search with the texts")
        return self.texts

    def scan(self, scorer: Scorer, *, k: int, rows: npt.NDArray[np.int64] | None = None) -> Candidates:
        """Score documents exhaustively.

        Args:
            scorer: `Q` compiled queries.
            k: Documents to keep of each query.
            rows: Which to score; None for all that are allowed.

        Returns:
            The best.
        """
        chosen = self.allowed_rows if rows is None else rows
        snapshot = self.snapshot
        snapshot.load(scan=rows is None)
        points = snapshot.in_memory
        if chosen is not None:
            scores, found = wide_scan(scorer, snapshot.chunks_of(chosen), k=k)
        elif points is None or not points.single:
            scores, found = wide_scan(scorer, snapshot.chunks(snapshot.chunk_rows), k=k)
        else:
            whole = partial(self._scan_whole, points, k=k)
            scores, found = product_scan(snapshot, scorer, k=k, exact=exact_scores, otherwise=whole) or whole(scorer)
        best = Candidates(found if chosen is None else torch.from_numpy(chosen)[found], scores)
        if rows is None and scorer is self.scorer and k >= self.at_most(self.k):
            self.found[:] = [best]
        return best

    def _scan_whole(self, points: Points, scorer: Scorer, *, k: int) -> tuple[Tensor, Tensor]:
        """Score all documents, which are in memory."""

        def kept(name: str, measure: Callable[[Space, Tensor], float]) -> float:
            key, measured = (name, scorer.space), partial(measure, scorer.space, points.rows)
            return self.index.keep(key, measured, size=sys.getsizeof)

        longest, uneven = kept("longest norm", longest_norm), kept("uneven norms", uneven_norms)
        rows = self.snapshot.chunk_rows
        return whole_scan(scorer, points, k=k, longest=longest, chunk_rows=rows, uneven=uneven)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows of documents for each query, best first.

    Attributes:
        rows: `(Q, n)` int64; `NOTHING` behind the last one where a query has fewer.
        scores: `(Q, n)` float32, float64 of a fusion, higher is better; equal ones by row.
    """

    rows: Tensor
    scores: Tensor

    @classmethod
    def ranked(cls, rows: Tensor, scores: Tensor, *, k: int | None = None) -> Self:
        """Sort rows by their scores, and equal scores by row.

        Args:
            rows: `(Q, n)`; `NOTHING` anywhere.
            scores: `(Q, n)`.
            k: How many to keep; None for all.

        Returns:
            The candidates.
        """
        best, found = best_positions(scores, rows, k)
        return cls(found, best)

    @classmethod
    def of_lists(cls, rows: Sequence[Tensor], scores: Sequence[Tensor], *, k: int | None = None) -> Self:
        """Make candidates from one list per query, of any lengths."""
        width = max((len(part) for part in rows), default=0)
        padded = torch.full((len(rows), width), NOTHING)
        values = torch.full((len(rows), width), -torch.inf, dtype=scores[0].dtype if len(scores) else None)
        for place, (own, their) in enumerate(zip(rows, scores, strict=True)):
            padded[place, : len(own)] = own
            values[place, : len(own)] = their
        return cls.ranked(padded, values, k=k)

    def __len__(self) -> int:
        return self.rows.shape[0]

    def first(self, k: int) -> Candidates:
        """Return the best `k` of each query."""
        return Candidates(self.rows[:, :k], self.scores[:, :k])

    def without(self, unwanted: Tensor) -> Candidates:
        """Leave out some rows of each query: `(Q, m)`, padded with `NOTHING`."""
        if not unwanted.shape[1]:
            return self
        # By bisection: a document of passages may be thousands of rows, and comparing all with all takes their product.
        rising = unwanted.sort(dim=1).values
        places = torch.searchsorted(rising, self.rows.contiguous()).clamp_max_(rising.shape[1] - 1)
        found = rising.gather(1, places) == self.rows
        return Candidates.ranked(self.rows.masked_fill(found, NOTHING), self.scores)

    @property
    def counts(self) -> Tensor:
        """`(Q,)` numbers of candidates."""
        return (self.rows != NOTHING).sum(dim=1)


def union(parts: Sequence[Candidates]) -> Candidates:
    """Unite candidates; a document that several parts found keeps its highest score.

    Args:
        parts: At least one, of the same queries, whose scores are comparable.

    Returns:
        Each query's distinct rows.
    """
    rows = torch.cat([part.rows for part in parts], dim=1)
    scores = torch.cat([part.scores for part in parts], dim=1)
    ranked = Candidates.ranked(rows, scores)
    by_row = ranked.rows.sort(dim=1, stable=True)  # stable: of equal rows the best score comes first
    again = torch.zeros_like(by_row.values, dtype=torch.bool)
    again[:, 1:] = by_row.values[:, 1:] == by_row.values[:, :-1]
    repeated = torch.zeros_like(again).scatter(1, by_row.indices, again)
    merged = Candidates.ranked(ranked.rows.masked_fill(repeated, NOTHING), ranked.scores)
    return merged.first(int(merged.counts.max()) if len(merged) else 0)


Method: TypeAlias = Literal["rrf", "weighted", "minmax"]
"""How scores are made comparable: by rank; not at all; by moving each query's scores to [0, 1]."""

HEAVIEST = 1e100
"""Largest weight of a ranking: products of heavier ones and scores would overflow."""

_Scores: TypeAlias = npt.NDArray[np.float64]


def fuse(
    parts: Sequence[Candidates], *, method: Method = "rrf", weights: Sequence[float] | None = None, rrf_k: int = 60
) -> Candidates:
    """Fuse rankings of the same queries.

    * `rrf`: the sum of weight / (`rrf_k` + rank), ranks from 1 (Cormack, Clarke and Büttcher, SIGIR 2009).
    * `weighted`: the weighted sum of scores; a ranking that lacks a document adds its own lowest score.
    * `minmax`: the weighted sum of scores after each ranking's own of a query were moved to [0, 1]; a ranking that
      lacks a document adds 0.

    Lowest and highest are those of real, finite scores. A document without tokens, which late interaction gives a
    filler for a score, counts as one that the ranking lacks; plus infinity counts as the highest, minus infinity as the
    lowest.

    Args:
        parts: At least one ranking.
        method: See above.
        weights: One per ranking, finite and at most `HEAVIEST`; None for equal ones.
        rrf_k: Larger values flatten the differences between first ranks; at least 0.

    Returns:
        Each query's distinct rows by fused score, float64; equal sums by row.

    Raises:
        InputError: There are no rankings, the number of weights is not theirs, a weight is out of range, `rrf_k` is
            below 0, or a score is not a number.
    """
    chosen = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
    if not parts or len(chosen) != len(parts):
        raise InputError(
            f"{len(parts)} rankings and {len(chosen)} weights cannot be fused; give one weight per ranking"
        )
    if not all(abs(weight) <= HEAVIEST for weight in chosen):
        raise InputError(f"weights must be finite numbers up to {HEAVIEST:g}, not {chosen}")
    if rrf_k < 0:
        raise InputError(f"rrf_k must be at least 0, not {rrf_k}; 60 is usual")
    scale = {"rrf": lambda scores: _by_rank(scores, rrf_k), "weighted": _as_they_are, "minmax": _to_unit}[method]
    rows, fused = [], []
    for query in range(len(parts[0])):
        present = [part.rows[query] != NOTHING for part in parts]
        own = [part.rows[query][there].numpy() for part, there in zip(parts, present, strict=True)]
        distinct, places = np.unique(np.concatenate(own), return_inverse=True)
        contributions = np.empty((len(parts), len(distinct)))
        start = 0
        for number, (part, there) in enumerate(zip(parts, present, strict=True)):
            scores = part.scores[query][there].double().numpy()
            if np.isnan(scores).any():
                raise InputError(f"ranking {number} (from 0) has scores that are not numbers for query {query}")
            values, lacking = scale(scores)
            contributions[number] = chosen[number] * lacking
            contributions[number, places[start : start + len(scores)]] = chosen[number] * values
            start += len(scores)
        rows.append(torch.from_numpy(distinct))
        fused.append(torch.from_numpy(_sums(contributions)))
    return Candidates.of_lists(rows, fused)


def _sums(contributions: _Scores) -> _Scores:
    """Sum `(parts, n)` over the parts; equal sums of unlike parts come out equal."""
    largest = float(np.abs(contributions).sum(axis=0).max(initial=0.0))
    return without_rounding(np.sort(contributions, axis=0).sum(axis=0), scale=largest)


def _by_rank(scores: _Scores, rrf_k: int) -> tuple[_Scores, float]:
    return 1 / (rrf_k + np.arange(1, len(scores) + 1, dtype=np.float64)), 0.0


def _as_they_are(scores: _Scores) -> tuple[_Scores, float]:
    low, high = _range(scores)
    return np.where(scores == EMPTY_SCORE, low, scores.clip(low, high)), low


def _to_unit(scores: _Scores) -> tuple[_Scores, float]:
    low, high = _range(scores)
    # A ranking of one document, or of equal ones, says that they are all good.
    unit = (scores.clip(low, high) - low) / (high - low) if high > low else np.where(scores >= low, 1.0, 0.0)
    return np.where(scores == EMPTY_SCORE, 0.0, unit), 0.0


def _range(scores: _Scores) -> tuple[float, float]:
    """Return the lowest and the highest real score; 0 and 1 where none is finite, which parts infinite ones."""
    real = scores[np.isfinite(scores) & (scores != EMPTY_SCORE)]
    return (float(real.min()), float(real.max())) if len(real) else (0.0, 1.0 if np.isinf(scores).any() else 0.0)
