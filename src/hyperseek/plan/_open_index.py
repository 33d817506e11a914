"""The open index that searches share, a search on it, and the candidates that its stages hand on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek._kept import Kept
from hyperseek._order import NOTHING, best_positions
from hyperseek.errors import InputError, StoreError
from hyperseek.plan._rounding import product_scan
from hyperseek.plan.exhaustive import exact_scores, longest_norm, whole_scan, wide_scan
from hyperseek.scoring import Points, Scorer
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
    """

    index: OpenIndex
    scorer: Scorer
    texts: Sequence[str] | None
    where: str | None
    k: int
    notes: dict[str, float] = field(default_factory=dict)
    found: list[Candidates] = field(default_factory=list)

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
        key, measure = ("longest norm", scorer.space), partial(longest_norm, scorer.space, points.rows)
        longest = self.index.keep(key, measure, size=sys.getsizeof)
        return whole_scan(scorer, points, k=k, longest=longest, chunk_rows=self.snapshot.chunk_rows)


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
        rows = self.rows
        for one in unwanted.T:
            rows = rows.masked_fill(rows == one[:, None], NOTHING)
        return Candidates.ranked(rows, self.scores)

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
