"""Documents with equal and nearly equal texts, and the top ranks they take.

Nearly equal texts share most of their runs of five words (Broder, 1997). Candidates share a band of MinHash values
(Indyk and Motwani, 1998), and each is checked by the runs themselves.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hyperseek._long_work import progress
from hyperseek._order import best_first
from hyperseek._relevance import normal_text, text_key
from hyperseek.types import Document, Run

_RUN = 5  # words
_BANDS, _ROWS = 25, 4  # texts that share 80 % of their runs meet in a band with a chance of 0.999997
_PRIME = (1 << 31) - 1
_MOST_IN_BAND = 50  # compared with each other; more are boilerplate, of which each is compared with the first
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Documents that repeat others.

    Attributes:
        documents: How many were read.
        equal: Documents whose text another before them has, but for case and blanks.
        near: Documents that share runs of words with another before them, and are not equal to it.
        similar: Share of common runs from which on they do.
        groups: Ids of documents that are equal or nearly so, the largest groups first.
        k: Top ranks of each query that were looked at; None without queries.
        taken: Share of these ranks that repeat a document above; None without queries.
        queries: Queries with such a rank.
    """

    documents: int
    equal: int
    near: int
    similar: float
    groups: list[list[str]]
    k: int | None = None
    taken: float | None = None
    queries: int | None = None

    def tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        """Yield the largest groups, as tables of results are shown."""
        title = f"duplicates: {self.equal:,} of {self.documents:,} documents repeat another, {self.near:,} nearly"
        if self.taken is not None:
            title += f"; they take {self.taken:.2%} of the top {self.k} ranks, in {self.queries:,} queries"
        rows = [[f"{len(group)}", ", ".join(group[:_SHOWN])] for group in self.groups[:_SHOWN]]
        yield title, ["documents", "ids"], rows


def find_duplicates(
    documents: Iterable[Document],
    *,
    total: int | None = None,
    similar: float = 0.8,
    seed: int = 0,
    run: Run | None = None,
    k: int = 10,
) -> Duplicates:
    """Find equal and nearly equal documents.

    Args:
        documents: Read once; memory holds hashes of their runs of words.
        total: How many there are, for the progress.
        similar: Share of common runs (Jaccard) from which on two are nearly equal.
        seed: Of the hashes.
        run: Rankings, to see which ranks duplicates take.
        k: Top ranks that count.

    Returns:
        What was found.
    """
    generator = np.random.default_rng(seed)
    factors, shifts = generator.integers(1, _PRIME, (2, _BANDS * _ROWS, 1), dtype=np.int64)
    names: list[str] = []
    runs: list[NDArray[np.int64]] = []
    first: dict[int, int] = {}
    parents: list[int] = []
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    equal = 0
    with progress("comparing texts", total, unit="documents") as bar:
        for place, document in enumerate(documents):
            names.append(document.id)
            parents.append(place)
            own = first.setdefault(text_key(document.full_text), place)
            if own != place:
                parents[place] = own
                equal += 1
                runs.append(np.empty(0, np.int64))
            else:
                runs.append(_hashed(document.full_text))
                least = ((factors * runs[place][None, :] + shifts) % _PRIME).min(axis=1, initial=_PRIME)
                if len(runs[place]):
                    for band in range(_BANDS):
                        key = (band, least[band * _ROWS : (band + 1) * _ROWS].tobytes())
                        buckets[key].append(place)
            bar.advance()
    near = _join(buckets, runs, parents, similar)
    members: dict[int, list[str]] = defaultdict(list)
    roots = [_root(parents, place) for place in range(len(names))]
    for name, root in zip(names, roots, strict=True):
        members[root].append(name)
    groups = sorted((group for group in members.values() if len(group) > 1), key=len, reverse=True)
    found = Duplicates(len(names), equal, near, similar, groups)
    return found if run is None else _with_ranks(found, dict(zip(names, roots, strict=True)), run, k)


def _hashed(text: str) -> NDArray[np.int64]:
    """Return the distinct hashes of a text's runs of words; of all its words where it has fewer."""
    words = normal_text(text).split()
    parts = [" ".join(words[start : start + _RUN]) for start in range(max(1, len(words) - _RUN + 1))] if words else []
    hashed = (int.from_bytes(hashlib.blake2b(part.encode(errors="surrogatepass"), digest_size=4).digest(), "big")
              for part in parts)  # fmt: skip
    return np.unique(np.fromiter(hashed, np.int64) % _PRIME)


def _join(
    buckets: dict[tuple[int, bytes], list[int]], runs: list[NDArray[np.int64]], parents: list[int], similar: float
) -> int:
    """Join documents that share enough runs, and return how many joined one before them."""
    compared: set[tuple[int, int]] = set()
    joined: set[int] = set()
    for places in buckets.values():
        few = len(places) <= _MOST_IN_BAND
        for a, b in combinations(places, 2) if few else ((places[0], other) for other in places[1:]):
            if (a, b) in compared:
                continue
            compared.add((a, b))
            common = len(np.intersect1d(runs[a], runs[b], assume_unique=True))
            if common >= similar * (len(runs[a]) + len(runs[b]) - common):
                joined.add(b)
                parents[_root(parents, b)] = _root(parents, a)
    return len(joined)


def _root(parents: list[int], place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place


def _with_ranks(found: Duplicates, group_of: dict[str, int], run: Run, k: int) -> Duplicates:
    repeated = ranks = queries = 0
    for scores in run.values():
        top = [group_of.get(name, name) for name in best_first(scores)[:k]]
        ranks += len(top)
        repeated += len(top) - len(set(top))
        queries += len(set(top)) < len(top)
    return Duplicates(
        found.documents, found.equal, found.near, found.similar, found.groups, k, repeated / max(1, ranks), queries
    )
