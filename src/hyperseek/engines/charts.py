"""Engines for vectors as structures of an index: one engine on each of several charts of its space.

A chart maps documents and queries to plain vectors, so that an engine finds what the space ranks first. Engines on
different L2 charts miss different documents, so the candidates of all charts are united.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hyperseek._files import read_tensors, write_tensors
from hyperseek._machine import one_core
from hyperseek.engines.engine import (
    LONGEST,
    ChartRecord,
    Engine,
    EngineConfig,
    EngineInfo,
    build_engine,
    estimate_engine,
    open_engine,
)
from hyperseek.engines.structure import (
    CandidateRequest,
    Documents,
    Ranking,
    Structure,
    StructureConfig,
    StructureEstimate,
    parse_structure,
)
from hyperseek.errors import InputError, StoreError
from hyperseek.scoring import Chart, Scorer, Space, TokenPoints, VectorPoints
from hyperseek.types import Metric

SCAN_NUMBERS = 20_000_000
"""Numbers, in all vectors together, that a core reads and compares in about ten milliseconds."""

_FITTED = "fitted-{}.safetensors"  # by the number of the chart
# Part of a wanted neighbourhood that tells where it is.
_FIRST_LOOK = 3
_CHUNK = 8192  # documents that are lifted and handed to an engine at a time
_EFFORTS = (16, 32, 64, 128, 256, 512)  # that tuning tries; the configurations say what effort means


class VectorStructure(Structure):
    """An engine for vectors on each of several charts; a subclass names the engine and its configuration.

    Args:
        config: Configuration it was built from.
        engines: Charts and their engines.

    Attributes:
        config: Configuration it was built from.
        engines: Charts and their engines.
    """

    engine: ClassVar[type[Engine]]
    """Class of the engine that is built on each chart."""

    def __init__(self, config: EngineConfig, engines: Sequence[tuple[Chart, Engine]]) -> None:
        self.config = config
        self.engines = tuple(engines)

    @classmethod
    def build(cls, folder: Path, documents: Documents, config: EngineConfig) -> dict[str, Any]:
        """Build an engine on each chart, and return the charts.

        Args:
            folder: An empty folder.
            documents: The documents of the index.
            config: A configuration of this kind.

        Returns:
            A mapping with the charts under `charts`.

        Raises:
            InputError: A vector is too long for engines; the message names the document.
        """
        charts = [(record, _fitted(documents, record)) for record in config.charts_in(documents.space)]
        for number, (_, chart) in enumerate(charts):
            if chart.fitted is not None:
                write_tensors(folder / _FITTED.format(number), chart.fitted)
        for number, (record, chart) in enumerate(charts):
            build_engine(
                folder / f"chart-{number}",
                _lifted(documents, chart),
                config,
                metric=chart.metric,
                count=len(documents),
                dimension=chart_width(documents.space, record),
            )
        return {
            "charts": [{"name": chart.name, "parameters": dict(chart.parameters)} for _, chart in charts],
            "fitted": [number for number, (_, chart) in enumerate(charts) if chart.fitted is not None],
        }

    @classmethod
    def open(cls, folder: Path, documents: Documents, config: EngineConfig, details: Mapping[str, Any]) -> Self:
        """Open the engines of all charts."""
        records = [
            ChartRecord.from_mapping(record, source=str(folder), error=StoreError) for record in details["charts"]
        ]
        charts = (
            documents.space.chart(record.name, fitted=_read_fitted(folder, number, details), **record.parameters)
            for number, record in enumerate(records)
        )
        return cls(config, [(chart, cls.engine.open(folder / f"chart-{n}")) for n, chart in enumerate(charts)])

    def can_search(self, scorer: Scorer) -> bool:
        """Whether one of the charts can lift these queries."""
        return any(scorer[:1].lift(chart) is not None for chart, _ in self.engines)

    @property
    def surrogate_parameters(self) -> Mapping[str, Any] | None:
        """Parameters of the first chart that lifts functions of features; None if no chart does."""
        charts = [chart for chart, _ in self.engines if chart.lift_weights is not None]
        # The bound belongs to the chart, not to its features.
        return {key: value for key, value in charts[0].parameters.items() if key != "bound"} if charts else None

    def efforts(self, n: int) -> Sequence[int | None]:
        """Return the efforts that are worth trying; only None for exact engines."""
        if self.config.exact:
            return (None,)
        # With less effort an engine would see fewer vectors than it should find.
        return [effort for effort in _EFFORTS if effort >= n // 4] or _EFFORTS[-1:]

    def search(self, request: CandidateRequest, *, effort: int | None = None) -> list[Ranking]:
        """Ask the engines of all charts that lift the queries.

        Args:
            request: The queries, and what may be found.
            effort: Effort of each engine.

        Returns:
            A ranking per chart. Charts that distort distances are asked twice: around the queries, and then around the
            balls that contain the best `k` so far.

        Raises:
            InputError: No chart lifts the queries.
        """
        scorer = request.scorer

        def ask(lifted: Sequence[tuple[Engine, Tensor | None]], counts: Sequence[int]) -> list[Ranking]:
            return [
                engine.search(queries.detach().float().cpu(), k=n, effort=effort, allowed=request.allowed)
                for (engine, queries), n in zip(lifted, counts, strict=True)
                if queries is not None
            ]

        twice = [_searched_twice(scorer, chart) for chart, _ in self.engines]
        # Where all that is found is wanted, the second look finds it, and the first one only where to look.
        first = request.n if request.k < request.n else -(-request.n // _FIRST_LOOK)
        with one_core():
            lifted = [(engine, scorer.lift(chart)) for chart, engine in self.engines]
        found = ask(lifted, [first if again else request.n for again in twice])
        if not found:
            charts = ", ".join(chart.name for chart, _ in self.engines)
            raise InputError(
                f"the engine {request.name!r} cannot be searched by a {scorer.kind!r} scorer on its charts ({charts}); "
                f"use a surrogate stage, with an engine on the 'inner_product' or 'balanced' chart or a scan"
            )
        if any(twice):
            with one_core():
                least = _score_to_reach(request, found, k=min(request.k, first))
                lifted = [(engine, scorer.lift_within(chart, least)) for chart, engine in self.engines]
            found += ask(lifted, [request.n] * len(lifted))
        return found

    @classmethod
    def estimate(cls, space: Space, config: EngineConfig, *, count: int) -> StructureEstimate:
        """Estimate what the engines of all charts cost together.

        Args:
            space: Space of the documents.
            config: A configuration of this kind.
            count: Number of documents.

        Returns:
            The sums, but the largest memory of building, since each engine is closed before the next one is begun.
        """
        widths = [chart_width(space, record) for record in config.charts_in(space)]
        parts = [cls.engine.estimate(config, count=count, dimension=width) for width in widths]
        seconds = [part.seconds for part in parts if part.seconds is not None]
        return StructureEstimate(
            sum(part.memory_bytes for part in parts),
            max((part.building_bytes for part in parts), default=0),
            sum(part.disk_bytes for part in parts),
            sum(seconds) if len(seconds) == len(parts) else None,
        )

    @classmethod
    def sizes(cls, space: Space, config: EngineConfig) -> str:
        """Return the dimensions of the vectors of each chart, in words."""
        records = config.charts_in(space)
        return " and ".join(f"{chart_width(space, record)} dimensions ({record.name})" for record in records)

    @classmethod
    def verify(cls, folder: Path, details: Mapping[str, Any]) -> None:
        """Compare all bytes of all engines with what was written; StoreError names a file that differs."""
        for number in range(len(details["charts"])):
            EngineInfo.read(chart := folder / f"chart-{number}").check(chart)
            _read_fitted(folder, number, details)

    @classmethod
    def described(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return the names of the charts."""
        return {"charts": [record["name"] for record in details["charts"]]}

    @classmethod
    def discard(cls, folder: Path) -> None:
        """Delete what the engines keep outside the folder, for example on a server."""
        for description in folder.glob("chart-*/engine.json"):
            open_engine(description.parent).discard()


def _searched_twice(scorer: Scorer, chart: Chart) -> bool:
    first = scorer[:1]
    return chart.lift_within is not None and first.lift_within(chart, torch.zeros(len(first))) is not None


def chart_width(space: Space, record: ChartRecord) -> int:
    """Return the width of a document's vector on a chart."""
    # The bound of a chart is known only when all documents have been read, but does not change its width.
    chart = space.chart(record.name, **{"bound": 1.0, **record.parameters})
    nothing = torch.zeros(0, space.width)
    none = TokenPoints(nothing, torch.zeros(1, dtype=torch.int64)) if space.ragged else VectorPoints(nothing)
    return chart.lift_documents(none).shape[1]


def widest_chart(space: Space) -> int:
    """Return the largest width of the charts that engines are built on by default."""
    names = {space.flat_chart, *space.graph_charts}
    return max(chart_width(space, ChartRecord(name=name)) for name in names)


def _fitted(documents: Documents, record: ChartRecord) -> Chart:
    space = documents.space
    fitted = space.fit_features(documents.chunks(_rows(documents)), **record.parameters)
    if "bound" in record.parameters:
        return space.chart(record.name, fitted=fitted, **record.parameters)
    try:
        return space.fit_chart(record.name, documents.chunks(_rows(documents)), fitted=fitted, **record.parameters)
    except InputError:
        for _ in _lifted(documents, space.chart("inner_product", fitted=fitted, **record.parameters)):
            pass  # this names the document whose features are too long
        raise


def _read_fitted(folder: Path, number: int, details: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Read what a chart's features were fitted with; None where nothing was."""
    if number not in details.get("fitted", ()):
        return None
    path = folder / _FITTED.format(number)
    return read_tensors(path, "a learned encoding", error=StoreError, remedy="build the engine again")[0]


def _rows(documents: Documents) -> int:
    return min(_CHUNK, documents.chunk_rows)


def _lifted(documents: Documents, chart: Chart) -> Iterator[Tensor]:
    """Lift all documents; InputError names the first whose vector is too long for engines."""
    row = 0
    for chunk in documents.chunks(_rows(documents)):
        vectors = chart.lift_documents(chunk).float()
        unusable = ~(torch.linalg.vector_norm(vectors, dim=1) <= LONGEST)
        if unusable.any():
            name = documents.ids[row + int(unusable.nonzero()[0])].as_py()
            raise InputError(
                f"the vector of document {name!r} is too long for engines on the chart {chart.name!r}, which compare "
                f"norms up to {LONGEST:g}; delete the document, or do without an engine"
            )
        yield vectors
        row += len(vectors)


def _score_to_reach(request: CandidateRequest, found: Sequence[Ranking], *, k: int) -> Tensor:
    """Return the score of each query's `k`-th best document so far; better ones are within the ball that it spans."""
    positions = torch.cat([part for _, part in found], dim=1).sort(dim=1).values
    # A document that several charts found counts once.
    positions[:, 1:] = positions[:, 1:].masked_fill(positions[:, 1:] == positions[:, :-1], -1)
    scores = request.exact(positions)
    if int((positions >= 0).sum(dim=1).amax()) < k:
        return torch.full((len(scores),), -torch.inf)
    return scores.topk(k, dim=1).values[:, -1]


def choose_engine(
    *, count: int, dimension: int, metric: Metric, max_bytes: int | None = None
) -> tuple[StructureConfig, str]:
    """Choose an engine by size.

    Args:
        count: Number of vectors, at least 0.
        dimension: Dimensions of the vectors, at least 1.
        metric: What to rank by. Graphs lead to near vectors, not to long ones, so they need `"l2"`.
        max_bytes: Memory that building may take; None for no limit.

    Returns:
        The configuration, and the reason in one sentence.

    Raises:
        InputError: No engine can be built in so little memory, or the count or dimension is out of range.
    """

    def needed(config: StructureConfig) -> int:
        return estimate_engine(config, count=count, dimension=dimension).building_bytes

    def fits(config: StructureConfig) -> bool:
        return max_bytes is None or needed(config) <= max_bytes

    size = f"{count:,} vectors of {dimension} dimensions"
    flat, hnsw, ivf = (parse_structure(kind) for kind in ("flat", "hnsw", "ivf"))
    if not fits(flat):
        raise InputError(f"no engine for {size} can be built in {max_bytes:,} bytes; a flat one takes {needed(flat):,}")
    if count * dimension <= SCAN_NUMBERS:
        return flat, f"flat and exact, because {size} are compared in some milliseconds"
    if metric == "l2" and fits(hnsw):
        return hnsw, f"a graph (HNSW), because {size} are many and it finds the nearest with the fewest comparisons"
    why = "inner products mislead graphs" if metric == "inner_product" else "a graph would not fit into memory"
    if fits(ivf):
        return ivf, f"cells (IVF), because {size} are many and {why}"
    if fits(short := parse_structure(ivf, pq=_bytes_of_a_vector(dimension))):
        return short, f"cells of shortened vectors (IVF-PQ), because {size} do not fit into {max_bytes:,} bytes"
    return flat, f"flat and exact, because nothing faster for {size} can be built in {max_bytes:,} bytes"


def _bytes_of_a_vector(dimension: int) -> int:
    """Return the largest divisor of the dimension that shortens float32 vectors to at most a sixteenth."""
    return next(pq for pq in range(max(1, dimension // 4), 0, -1) if dimension % pq == 0)
