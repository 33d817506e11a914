"""The interface of engines for vectors, and what they share: checks, descriptions in folders, the order of results.

An engine knows only vectors, by their position in the order in which they were given. Shapes: `N` vectors, `Q` queries,
`d` dimensions.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor

from hyperseek._config import Config
from hyperseek._files import reading, writing
from hyperseek._folders import CHECKED_AT_ONCE, checksum_folder
from hyperseek._long_work import progress
from hyperseek._machine import one_core
from hyperseek._order import best_positions
from hyperseek.engines.structure import (
    STRUCTURES,
    AnyStructureConfig,
    FolderDescription,
    StructureConfig,
    StructureEstimate,
    kinds_that_fit,
)
from hyperseek.errors import InputError, StoreError
from hyperseek.scoring import Space
from hyperseek.types import Metric

CHUNK = 8192
"""Most vectors that an engine is given at a time."""

LONGEST = 1e18
"""Largest norm of a vector: products of longer ones would overflow float32."""

BASE_BYTES = 48 << 20
"""Memory that libraries take whatever the size: buffers of matrix products, stacks, allocators."""

PRODUCTS = 4e10
"""Operations per second in long float32 products, measured on one core of a busy server; cores differ."""

TOKEN_CHUNK = 256
"""Most documents of many token vectors that a structure reads at a time."""

ASSUMED_TOKENS = 120
"""Token vectors of a document, for estimates, where their number is unknown: what PLAID assumes."""

_REMEDY = "build the engine again"


class ChartRecord(Config):
    """A chart that an engine is built on.

    Attributes:
        name: Within the space.
        parameters: Arguments of `Space.chart`.
    """

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


def _record(value: object) -> object:
    if isinstance(value, Mapping) and "parameters" not in value:  # {"name": "poincare", "level": 1}
        return {"name": value.get("name"), "parameters": {key: own for key, own in value.items() if key != "name"}}
    return {"name": value} if isinstance(value, str) else value


class EngineConfig(StructureConfig):
    """Base of the configurations of engines for vectors.

    Attributes:
        kind: Kind of the engine.
        charts: Charts of the index's space; one engine is built on each. A name stands for a chart with its defaults,
            `{"name": "poincare", "level": 1}` for one with parameters; the name of an encoding, as `"learned"`, for its
            charts that suit the kind of engine. None for those that suit the space and the kind of engine.
    """

    charts: tuple[Annotated[ChartRecord, BeforeValidator(_record)], ...] | None = None

    def charts_in(self, space: Space) -> tuple[ChartRecord, ...]:
        """Return the charts to build an engine on: of an encoding that is named, those that suit the kind of engine."""
        names = space.graph_charts if self.graph else (space.flat_chart,)
        found: list[ChartRecord] = []
        for record in (ChartRecord(name=name) for name in names) if self.charts is None else self.charts:
            own = {"encoding": record.name, **record.parameters}
            encoded = record.name in space.geometry.encodings
            found += [ChartRecord(name=name, parameters=own) for name in names] if encoded else [record]
        return tuple(found)

    def of_level(self, space: Space, level: int) -> Self:
        """Return the configuration of the same engine on the charts of one level."""
        charts = self.charts_in(space)
        made = (chart.model_copy(update={"parameters": {**chart.parameters, "level": level}}) for chart in charts)
        return self.model_copy(update={"charts": tuple(made)})

    @property
    def graph(self) -> bool:
        """Whether the engine walks a graph of neighbours; such engines need charts that are searched by distance."""
        return False


class EngineInfo(FolderDescription):
    """The content of `engine.json`.

    Attributes:
        format: Version of the folder's layout.
        config: Configuration the engine was built from.
        metric: What it ranks by.
        count: `N`.
        dimension: `d`.
        details: What the engine noted for itself.
    """

    file: ClassVar[str] = "engine.json"
    what: ClassVar[str] = "the description of an engine"
    remedy: ClassVar[str] = _REMEDY

    format: Literal[1] = 1
    config: AnyStructureConfig
    metric: Metric
    count: int = Field(ge=0)
    dimension: int = Field(ge=1)
    details: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read an engine's description; StoreError if there is none, as in an unfinished folder, or it is damaged."""
        if folder.is_dir() and not (folder / cls.file).exists():
            raise StoreError(f"{folder} holds no complete engine: there is no {cls.file}; {_REMEDY}")
        return super().read(folder)


class Engine(ABC):
    """Finds the vectors that a query ranks highest, all or nearly all of them.

    Searches may run in several threads at once.

    Args:
        folder: A folder that `build` has filled.
        info: Its description.

    Attributes:
        folder: The engine's folder.
        info: Its description.
    """

    kind: ClassVar[str]
    checked_whole: ClassVar[bool] = False
    """Whether all bytes are compared with their checksums before the engine is opened, however many there are."""

    def __init__(self, folder: Path, info: EngineInfo) -> None:
        self.folder = folder
        self.info = info
        if info.count:
            self._load()

    def __repr__(self) -> str:
        size = f"count={len(self)}, dimension={self.dimension}"
        return f"{type(self).__name__}({self.config!r}, metric={self.metric!r}, {size})"

    def __len__(self) -> int:
        return self.info.count

    @property
    def config(self) -> StructureConfig:
        """Configuration the engine was built from."""
        return self.info.config

    @property
    def metric(self) -> Metric:
        """What the engine ranks by."""
        return self.info.metric

    @property
    def dimension(self) -> int:
        """Dimensions of a vector."""
        return self.info.dimension

    @classmethod
    def build(
        cls,
        folder: Path,
        vectors: Iterable[Tensor],
        config: StructureConfig,
        *,
        metric: Metric,
        count: int,
        dimension: int,
    ) -> Self:
        """Fill a folder with an engine; `build_engine` checks more before it begins.

        Args:
            folder: Missing or empty.
            vectors: Chunks `(n, d)` in order, read once.
            config: A configuration of this kind.
            metric: What to rank by.
            count: `N`.
            dimension: `d`.

        Returns:
            The engine.

        Raises:
            InputError: A vector is not finite or too long (the message names its position), or there are not `N`
                vectors of `d` numbers.
            WriteError: The disk is full, or the folder may not be written to.
        """
        info = EngineInfo(config=cls.resolved(config), metric=metric, count=count, dimension=dimension)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with writing(folder), progress(f"building {config.kind}", count, unit="vectors") as bar:

            def advancing() -> Iterator[Tensor]:
                for chunk in checked_vectors(vectors, count=count, dimension=dimension):
                    yield chunk
                    bar.advance(len(chunk))

            chunks = advancing()
            details = cls._write(folder, chunks, info) if count else {}
            for _ in chunks:  # vectors that `_write` did not ask for are checked all the same
                pass
        files = checksum_folder(folder, leave_out=(info.file,))
        info = info.model_copy(update={"details": details, "files": files})
        info.write(folder)
        return cls(folder, info)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what `build` left in a folder.

        Args:
            folder: The engine's folder.

        Returns:
            The engine.

        Raises:
            StoreError: The folder holds no engine of this kind, or a damaged one.
        """
        info = EngineInfo.read(folder)
        if info.config.kind != cls.kind:
            raise StoreError(f"{folder} holds an engine of kind {info.config.kind!r}, not {cls.kind!r}")
        # Before the bytes are handed to libraries that trust them.
        info.check(folder, at_most=None if cls.checked_whole else CHECKED_AT_ONCE)
        with reading(folder, "a whole engine", error=StoreError, remedy=_REMEDY):
            return cls(folder, info)

    def search(
        self, queries: Tensor, *, k: int, effort: int | None = None, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find the best vectors for every query.

        Args:
            queries: `(Q, d)`, finite.
            k: How many, at least 1; may exceed `N`.
            effort: How thoroughly to search, at least 1; the configuration says what it means, and what None means.
                Exact engines ignore it.
            allowed: `(N,)` booleans: which vectors may be found. None for all.

        Returns:
            Scores `(Q, k)`, float32, higher is better: inner products, or minus distances. Positions `(Q, k)`, int64.
            Best first, equal scores by position. If fewer were found, scores end with minus infinity and positions with
            -1.

        Raises:
            InputError: An argument is out of range, not finite, or has the wrong shape.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        if effort is not None and effort < 1:
            raise InputError(f"effort must be at least 1, not {effort}")
        vectors = _checked_queries(queries, self.dimension)
        mask = _checked_mask(allowed, len(self))
        available = len(self) if mask is None else int(mask.sum())
        scores, positions = torch.full((len(vectors), k), -torch.inf), torch.full((len(vectors), k), -1)
        if len(vectors) and available:
            # Files that are read only now may have been damaged in the meantime.
            remedy = f"unless the memory ran out, {_REMEDY}"
            with torch.no_grad(), reading(self.folder, "a whole engine", error=StoreError, remedy=remedy):
                found = self._search(vectors, min(k, available), effort, None if available == len(self) else mask)
            with one_core():
                best, places = best_positions(*found, k)
            scores[:, : best.shape[1]], positions[:, : best.shape[1]] = best, places
        return scores, positions

    @classmethod
    def resolved(cls, config: Any) -> Any:
        """Return a configuration completed with what is only known when the engine is built, as a named server."""
        return config

    def discard(self) -> None:  # noqa: B027  most engines keep nothing outside
        """Delete what the engine keeps outside its folder; the engine cannot be used afterwards."""

    @classmethod
    @abstractmethod
    def estimate(cls, config: Any, *, count: int, dimension: int) -> StructureEstimate:
        """Estimate what building and searching will cost.

        Args:
            config: A configuration of this kind.
            count: `N`, at least 0.
            dimension: `d`, at least 1.

        Returns:
            Bytes of memory and disk, and seconds.
        """

    @classmethod
    @abstractmethod
    def _write(cls, folder: Path, chunks: Iterator[Tensor], info: EngineInfo) -> dict[str, Any]:
        """Write an engine of at least one vector into the folder, and return the details for the description."""

    @abstractmethod
    def _load(self) -> None:
        """Open the files of an engine of at least one vector."""

    @abstractmethod
    def _search(
        self, queries: Tensor, k: int, effort: int | None, allowed: NDArray[np.bool_] | None
    ) -> tuple[Tensor, Tensor]:
        """Return scores and positions, -1 for nothing, for at least one query; at least `k` vectors are allowed."""


def checked_vectors(vectors: Iterable[Tensor], *, count: int, dimension: int) -> Iterator[Tensor]:
    """Check vectors, and yield them in chunks of at most `CHUNK`, float32 on the CPU.

    Args:
        vectors: Chunks `(n, d)`.
        count: `N`.
        dimension: `d`.

    Yields:
        Chunks `(n, d)`, contiguous.

    Raises:
        InputError: A vector is not finite or too long, or the shape is not the announced one.
    """
    seen = 0
    for given in vectors:
        if given.ndim != 2 or given.shape[1] != dimension:
            raise InputError(f"vectors must come in chunks of shape (n, {dimension}), not {tuple(given.shape)}")
        for part in torch.split(given, CHUNK):
            chunk = part.detach().to("cpu", torch.float32).contiguous()
            check_finite(chunk, first=seen, what="vector")
            seen += len(chunk)
            if seen > count:
                raise InputError(f"there are more than the {count} vectors that were announced")
            if len(chunk):
                yield chunk
    if seen < count:
        raise InputError(f"there are {seen} vectors, not the {count} that were announced")


def check_finite(vectors: Tensor, *, first: int, what: str) -> None:
    """Raise InputError unless the norms of all vectors can be squared; `first` is the position of the first one."""
    usable = torch.linalg.vector_norm(vectors, dim=1) <= LONGEST
    if not usable.all():
        row = int((~usable).nonzero()[0])
        fault = "is too long to be compared" if vectors[row].isfinite().all() else "has infinite or undefined numbers"
        raise InputError(f"{what} {first + row} (from 0) {fault}; norms may be up to {LONGEST:g}")


def _checked_queries(queries: Tensor, dimension: int) -> Tensor:
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise InputError(f"queries must have the shape (Q, {dimension}), not {tuple(queries.shape)}")
    vectors = queries.detach().to("cpu", torch.float32).contiguous()
    check_finite(vectors, first=0, what="query")
    return vectors


def _checked_mask(allowed: NDArray[np.bool_] | None, count: int) -> NDArray[np.bool_] | None:
    if allowed is None:
        return None
    mask = np.asarray(allowed)
    if mask.dtype != np.bool_ or mask.shape != (count,):
        raise InputError(f"allowed must be booleans of shape ({count},), not {mask.dtype} of shape {mask.shape}")
    return mask


def check_tokens(space: Space, kind: str) -> None:
    """Raise InputError unless the points of a space are sets of token vectors, the only ones that this kind is for."""
    if not space.ragged:
        raise InputError(f"{kind!r} is for documents of many token vectors, not for points of {space}")


def chunk_bytes(dimension: int) -> int:
    """Return the memory that chunks of vectors take while an engine is built, whatever its kind."""
    # The chunk in use, a copy of it in another type, and one that is being read.
    return BASE_BYTES + 3 * 4 * CHUNK * dimension


def build_seconds(seconds_of_one_core: float) -> float:
    """Return how long work takes on all cores, including a second to start."""
    return round(seconds_of_one_core / torch.get_num_threads() + 1.0, 1)


def build_engine(
    folder: Path,
    vectors: Iterable[Tensor],
    config: StructureConfig,
    *,
    metric: Metric,
    count: int,
    dimension: int,
    max_bytes: int | None = None,
) -> Engine:
    """Build an engine in a folder; what a failed build wrote is deleted.

    Args:
        folder: Missing or empty.
        vectors: Chunks `(n, d)` of finite vectors, in order; read once. Positions count them from 0.
        config: Configuration of the engine.
        metric: What it ranks by.
        count: `N`.
        dimension: `d`.
        max_bytes: Memory that building may take; None for no limit.

    Returns:
        The engine.

    Raises:
        InputError: Building would take more memory (the message says what would fit, and nothing has been read), or a
            vector cannot be used (the message names its position).
        StoreError: The folder is not empty.
        MissingExtraError: The engine needs a package that is not installed.
    """
    folder = Path(folder)

    def building(config: StructureConfig) -> int:
        return estimate_engine(config, count=count, dimension=dimension).building_bytes

    needed = building(config)
    if max_bytes is not None and needed > max_bytes:
        raise InputError(
            f"building {config.kind!r} for {count} vectors of {dimension} dimensions takes about {needed:,} bytes of "
            f"memory, more than the {max_bytes:,} that are allowed; {kinds_that_fit(building, max_bytes)}"
        )
    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} is not empty; choose another folder for the engine")
    try:
        engine = _engine_class(config.kind)
        return engine.build(folder, vectors, config, metric=metric, count=count, dimension=dimension)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def open_engine(folder: Path) -> Engine:
    """Open an engine of any kind.

    Args:
        folder: A folder that `build_engine` filled.

    Returns:
        The engine; it finds what the built one found.

    Raises:
        StoreError: The folder holds no engine, or a damaged one.
        MissingExtraError: The engine needs a package that is not installed.
    """
    return _engine_class(EngineInfo.read(Path(folder)).config.kind).open(Path(folder))


def estimate_engine(config: StructureConfig, *, count: int, dimension: int) -> StructureEstimate:
    """Estimate what an engine will cost.

    Args:
        config: Configuration of the engine.
        count: Number of vectors, at least 0.
        dimension: Dimensions of the vectors, at least 1.

    Returns:
        Bytes of memory and disk, and seconds.

    Raises:
        InputError: The count or the dimension is out of range.
    """
    if dimension < 1 or count < 0:
        raise InputError(f"an engine needs at least 0 vectors of at least 1 dimension, not {count} of {dimension}")
    return _engine_class(config.kind).estimate(config, count=count, dimension=dimension)


def _engine_class(kind: str) -> type[Engine]:
    # Structures that are not engines are built on an index, not on vectors alone.
    engine: type[Engine] | None = getattr(STRUCTURES[kind], "engine", None)
    if engine is None:
        raise InputError(f"{kind!r} is not an engine for vectors alone; build it on an index: index.engines.build()")
    return engine
