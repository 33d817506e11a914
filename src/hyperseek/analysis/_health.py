"""The health of an index: hubs, the directions its points use, and duplicates, with the top ranks that both take.

* A **hub** is near to many documents, an anti-hub to none. `k`-occurrence is how often a document is among the k
  nearest of others; its skewness measures hubness (Radovanović, Nanopoulos and Ivanović, JMLR 2010).
* A space is **anisotropic** if its vectors point the same way: their mean cosine is far above 0, their effective rank
  (Roy and Vetterli, 2007) and IsoScore (Rudman et al., 2022) are small.

Points are compared by the distance of their own space; directions are those of vectors, in hyperbolic spaces those of
tangents at the origin.

Shapes: `n` vectors of a sample, `d` numbers each.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._display import ShowsTables
from hyperseek._files import write_json
from hyperseek._order import best_first
from hyperseek._relevance import is_relevant
from hyperseek.analysis._diagnosis_page import write_page
from hyperseek.analysis._duplicates import Duplicates, find_duplicates
from hyperseek.analysis._radii import title_of
from hyperseek.data import Dataset
from hyperseek.errors import InputError
from hyperseek.geometry.polar import split_polar
from hyperseek.index import Index
from hyperseek.scoring import Points, Space
from hyperseek.types import Run

Floats = NDArray[np.float64]

_MOST_VECTORS = 20_000  # token vectors that directions are measured on
_ASK = 256  # points whose distances to the sample are held at a time
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Hub:
    """A document that is near to many.

    Attributes:
        id: Its id.
        title: Its title, or the beginning of its text.
        count: How many documents, or queries, it is among the nearest of.
        relevant: Of how many of these queries it is relevant; None for documents.
    """

    id: str
    title: str
    count: int
    relevant: int | None = None


@dataclass(frozen=True, slots=True)
class Hubness:
    """How unevenly documents are found.

    Attributes:
        of: What they are near to: `documents` of a sample, or `queries`.
        count: How many of these there are.
        documents: Documents that could be found.
        k: Nearest that count.
        skewness: Of the k-occurrence; above 1 is a strongly hubby space, for documents near documents.
        never: Share of documents that are among the nearest of nothing: anti-hubs.
        top: Share of all places that the 1 % most found documents take.
        hubs: The most found, most first.
    """

    of: str
    count: int
    documents: int
    k: int
    skewness: float
    never: float
    top: float
    hubs: list[Hub]


@dataclass(frozen=True, slots=True)
class Directions:
    """Which directions of the space the vectors use.

    Attributes:
        vectors: How many were measured.
        dimension: Numbers of each.
        cosine: Mean cosine of two of them: 0 for vectors that point everywhere, 1 for one direction.
        effective_rank: Exponential of the entropy of the covariance's eigenvalues, from 1 to the dimension.
        isotropy: IsoScore, from 0, one direction, to 1, all alike.
    """

    vectors: int
    dimension: int
    cosine: float
    effective_rank: float
    isotropy: float


@dataclass(frozen=True, slots=True)
class HealthReport(ShowsTables):
    """What is wrong with an index, if anything is.

    Attributes:
        documents: Documents of the index.
        space: Geometry of their points.
        directions: Of the vectors.
        hubness: Near documents, and with a data set near its queries.
        duplicates: Equal and nearly equal texts.
        left_out: What was not measured, and why.
        files: What was written.
    """

    documents: int
    space: Space
    directions: Directions
    hubness: list[Hubness]
    duplicates: Duplicates
    left_out: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "space": self.space.to_json(), "files": [str(path) for path in self.files]}

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        own = self.directions
        yield (
            f"directions of {own.vectors:,} vectors in {self.space}",
            ["", "value", "of"],
            [
                ["mean cosine of two", f"{own.cosine:.3f}", "0 everywhere, 1 one direction"],
                ["effective rank", f"{own.effective_rank:.1f}", f"{own.dimension} dimensions"],
                ["isotropy (IsoScore)", f"{own.isotropy:.3f}", "1"],
            ],
        )
        for hubs in self.hubness:
            judged = [] if hubs.of == "documents" else ["relevant to"]
            rows = [
                [hub.id, hub.title, f"{hub.count:,}", f"{hub.relevant or 0:,}"][: 3 + len(judged)] for hub in hubs.hubs
            ]
            yield (
                f"hubs among the {hubs.k} nearest of {hubs.count:,} {hubs.of}: skewness {hubs.skewness:.2f}, "
                f"{hubs.never:.1%} of documents near none, the top 1 % in {hubs.top:.1%} of places",
                ["document", "title", hubs.of, *judged],
                rows,
            )
        yield from self.duplicates.tables()

    def _shown_remarks(self) -> Iterator[str]:
        for what, reason in self.left_out.items():
            yield f"no {what}: {reason}"

    def _frame_rows(self) -> Iterator[Mapping[str, Any]]:
        for hubs in self.hubness:
            for hub in hubs.hubs:
                yield {"near": hubs.of, **asdict(hub)}


def inspect_health(
    index: Index,
    *,
    dataset: Dataset | None = None,
    split: str = "test",
    k: int = 10,
    sample: int = 2000,
    similar: float = 0.8,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
) -> HealthReport:
    """Look for hubs, unused directions, and duplicates in an index.

    Args:
        index: The documents and their points.
        dataset: Queries with judgements of the same documents, to see which top ranks hubs and duplicates take.
        split: Split of the judgements.
        k: Nearest documents, and top ranks, that count.
        sample: Most documents whose points are compared with each other, at least 3.
        similar: Share of common runs of five words, from 0.5 to 1, from which on two texts are nearly equal.
        seed: Of the sample and of the hashes.
        output: Folder for `health.json` and `health.html`; None writes nothing.

    Returns:
        The report.

    Raises:
        InputError: The index has fewer than three documents, or a number is out of range.
        UnknownNameError: There is no such split.
    """
    if k < 1 or min(sample, len(index)) < 3 or not 0.5 <= similar <= 1:
        raise InputError(
            f"health is measured with at least 3 documents, k of at least 1 and similar from 0.5 to 1; the index has "
            f"{len(index)} documents, sample {sample}, k {k}, similar {similar}"
        )
    ids, points = _sampled(index, sample, seed)
    left_out = {}
    hubness = []
    if index.space.distance_name is None:
        left_out["hubs near documents"] = f"a {index.space.kind} space has no distance between documents"
    else:
        hubness.append(_near_documents(index, ids, points.rows, k))
    run: Run | None = None
    if dataset is None:
        left_out["hubs near queries"] = "no data set was given"
    else:
        run = index.run(dataset.queries(split), k=k, engine="exact")
        hubness.append(_near_queries(index, run, dataset.qrels(split), k))
    report = HealthReport(
        documents=len(index),
        space=index.space,
        directions=measure_directions(_directions(index.space, points, seed)),
        hubness=hubness,
        duplicates=find_duplicates(index.documents(), total=len(index), similar=similar, seed=seed, run=run, k=k),
        left_out=left_out,
    )
    if output is None:
        return report
    folder = Path(output)
    report.files.extend([folder / "health.json", folder / "health.html"])
    write_json(folder / "health.json", report.to_json())
    name = index.info.name or index.path.name
    write_page(folder / "health.html", f"Health of {name}", report._shown_tables(), list(report._shown_remarks()))
    return report


def _sampled(index: Index, sample: int, seed: int) -> tuple[list[str], Points]:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(index))[:sample])
    names: list[str] = []
    kept: list[Points] = []
    first = 0
    for own, points in index.points():
        here = chosen[(chosen >= first) & (chosen < first + len(own))] - first
        if len(here):
            names += [own[place] for place in here]
            kept.append(points[torch.from_numpy(here)])
        first += len(own)
    return names, type(kept[0]).concatenate(kept)


def _directions(space: Space, points: Points, seed: int) -> Tensor:
    """Return at most 20,000 `(n, d)` vectors, of tokens where a document has several; float64."""
    rows = points.rows
    if len(rows) > _MOST_VECTORS:
        rows = rows[torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(len(rows))[:_MOST_VECTORS]))]
    if not space.hyperbolic:
        return rows.double()
    directions, rho = split_polar(space.at_level(rows).double())
    return directions * rho


def measure_directions(vectors: Tensor) -> Directions:
    """Measure which directions vectors use.

    Args:
        vectors: `(n, d)`, at least 2.

    Returns:
        The measurements.
    """
    count, dimension = vectors.shape
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    # The sum of all pairs' cosines is the squared length of the sum; without each vector with itself.
    total = float(unit.sum(dim=0).square().sum()) - float(unit.square().sum())
    centred = vectors.double() - vectors.double().mean(dim=0)
    values = torch.linalg.eigvalsh(centred.T @ centred / (count - 1)).clamp(min=0).numpy()
    shares = values / values.sum() if values.sum() > 0 else np.eye(1, dimension)[0]
    known = shares[shares > 0]
    return Directions(
        vectors=count,
        dimension=dimension,
        cosine=total / (count * (count - 1)),
        effective_rank=float(np.exp(-(known * np.log(known)).sum())),
        isotropy=_iso_score(shares),
    )


def _iso_score(shares: Floats) -> float:
    """Return IsoScore of the eigenvalues of a covariance, by Algorithm 1 of Rudman et al. (2022)."""
    count = len(shares)
    if count == 1:
        return 1.0
    scaled = shares * np.sqrt(count) / np.linalg.norm(shares)
    defect = np.linalg.norm(scaled - 1) / np.sqrt(2 * (count - np.sqrt(count)))
    used = (count - defect**2 * (count - np.sqrt(count))) ** 2 / count**2
    return float((count * used - 1) / (count - 1))


def _near_documents(index: Index, ids: Sequence[str], rows: Tensor, k: int) -> Hubness:
    space = index.space.one_level
    points = index.space.at_level(rows)
    few = min(k, len(ids) - 1)
    counts = np.zeros(len(ids), np.int64)
    for start in range(0, len(ids), _ASK):
        own = torch.arange(start, min(start + _ASK, len(ids)))
        apart = space.distances(points[own], points)
        apart[torch.arange(len(own)), own] = torch.inf
        nearest = apart.topk(few, largest=False).indices
        counts += np.bincount(nearest.flatten().numpy(), minlength=len(ids))
    found = Counter({name: int(count) for name, count in zip(ids, counts, strict=True) if count})
    return _hubness("documents", index, found, None, len(ids), len(ids), few)


def _near_queries(index: Index, run: Run, qrels: Mapping[str, Mapping[str, int]], k: int) -> Hubness:
    found: Counter[str] = Counter()
    relevant: Counter[str] = Counter()
    for query, scores in run.items():
        top = best_first(scores)[:k]
        found.update(top)
        relevant.update(name for name in top if is_relevant(qrels.get(query, {}).get(name, 0)))
    return _hubness("queries", index, found, relevant, len(run), len(index), k)


def _hubness(
    of: str, index: Index, found: Counter[str], relevant: Counter[str] | None, count: int, documents: int, k: int
) -> Hubness:
    counts = np.zeros(documents)
    counts[: len(found)] = sorted(found.values(), reverse=True)
    apart = counts - counts.mean()
    deviation = counts.std()
    most = found.most_common(_SHOWN)
    known = index.get([name for name, _ in most])
    return Hubness(
        of=of,
        count=count,
        documents=documents,
        k=k,
        skewness=float((apart**3).mean() / deviation**3) if deviation > 0 else 0.0,
        never=float((counts == 0).mean()),
        top=float(counts[: max(1, documents // 100)].sum() / max(1.0, counts.sum())),
        hubs=[
            Hub(name, title_of(known[name]), number, None if relevant is None else relevant[name])
            for name, number in most
        ],
    )
