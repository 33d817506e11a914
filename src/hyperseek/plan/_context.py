"""What every stage of a search can use: the documents, the queries, the engines, and what is allowed.

Shapes: `Q` queries, `N` documents.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hyperseek._errors import InputError, StoreError
from hyperseek._kept import Kept
from hyperseek.plan._candidates import Candidates
from hyperseek.plan._flat import longest_norm
from hyperseek.plan._scan import whole_scan, wide_scan
from hyperseek.scoring import Scorer, TokenPoints
from hyperseek.store._attachments import Attached, Attachment, Attachments, open_attached
from hyperseek.store._snapshot import Snapshot

T = TypeVar("T")

KEPT_BYTES = 256 << 20
"""What the landmarks of surrogates may take together: 256 MiB. Beyond it the least recently used are forgotten."""

# How often an attachment is looked for that a writer keeps replacing.
_ATTEMPTS = 5


class Ground:
    """One version of an index with its attachments open: what all searches on it share.

    Args:
        folder: The index.
        snapshot: Its documents.
        compile: Compiles query texts with the model of a folder or name, None for the index' own.
    """

    def __init__(
        self, folder: Path, snapshot: Snapshot, compile: Callable[[str | None, Sequence[str]], Scorer]
    ) -> None:
        self.folder = folder
        self.snapshot = snapshot
        self.compile = compile
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

    def attached(self, name: str | None, kind: str) -> Attached:
        """Return an attachment, open.

        Args:
            name: Its name; None for the newest of its kind.
            kind: `"engine"` or `"graph"`.

        Returns:
            The attachment.

        Raises:
            InputError: There is none of this kind.
            UnknownNameError: There is none of this name.
        """
        for attempt in range(_ATTEMPTS):
            record = self.attachments.get(name) if name is not None else self.newest(kind)
            if record is None or record.kind != kind:
                what = f"{name!r} is no {kind}" if record is not None else f"it has no {kind}"
                raise InputError(
                    f"the index {self.folder} cannot be searched this way: {what}; build one: index.build_{kind}()"
                )
            try:
                return self._attached.get(record.folder, partial(open_attached, self.folder, record, self.snapshot))
            except StoreError:
                # A writer may have put another one in its place since the list was read.
                self.reread()
                if attempt == _ATTEMPTS - 1 or record in self.attachments.items:
                    raise
        raise AssertionError("the loop returns or raises")

    def newest(self, kind: str) -> Attachment | None:
        """Return the attachment of a kind that was built last; None if there is none."""
        of_kind = [item for item in self.attachments.items if item.kind == kind]
        return of_kind[-1] if of_kind else None


@dataclass(frozen=True)
class Search:
    """A search for some queries.

    Attributes:
        ground: The index.
        scorer: `Q` compiled queries.
        texts: Their texts; None where only the scorer was given.
        where: SQL that documents must meet; None for all.
        k: Documents that the search shall end with.
        notes: Filled by stages with what they did, for explanations: numbers, averaged over queries.
        found: What a scan of all documents that may be found has found, if there was one; see `truth`.
    """

    ground: Ground
    scorer: Scorer
    texts: Sequence[str] | None
    where: str | None
    k: int
    notes: dict[str, float] = field(default_factory=dict)
    found: list[Candidates] = field(default_factory=list)

    @property
    def snapshot(self) -> Snapshot:
        """The documents."""
        return self.ground.snapshot

    @cached_property
    def allowed(self) -> npt.NDArray[np.bool_] | None:
        """`(N,)`: which documents may be found; None for all."""
        return None if self.where is None else self.snapshot.mask(self.where)

    @cached_property
    def allowed_rows(self) -> npt.NDArray[np.int64] | None:
        """Rows of the documents that may be found; None for all."""
        return None if self.allowed is None else np.flatnonzero(self.allowed)

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
        points = snapshot.in_memory
        if chosen is not None:
            scores, found = wide_scan(scorer, snapshot.chunks_of(chosen), k=k)
        elif points is None or isinstance(points, TokenPoints):
            scores, found = wide_scan(scorer, snapshot.chunks(snapshot.chunk_rows), k=k)
        else:
            key, measure = ("longest norm", scorer.space), partial(longest_norm, scorer.space, points.vectors)
            longest = self.ground.keep(key, measure, size=sys.getsizeof)
            scores, found = whole_scan(scorer, points, k=k, longest=longest, chunk_rows=snapshot.chunk_rows)
        best = Candidates(found if chosen is None else torch.from_numpy(chosen)[found], scores)
        if rows is None and scorer is self.scorer and k >= self.at_most(self.k):
            self.found[:] = [best]
        return best
