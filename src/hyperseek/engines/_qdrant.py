"""Qdrant: an engine outside this process.

A server keeps the vectors in a collection of its own and answers searches. Without a server the client's own exact
search takes its place, in memory. Its files would be pickles, so the vectors are in a plain file in the engine's folder
and are given to the client when the engine is opened.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from hyperseek.engines._flat import MATRIX, read_matrix, write_matrix
from hyperseek.engines.charts import VectorStructure
from hyperseek.engines.engine import BASE_BYTES, Engine, EngineConfig, EngineInfo, chunk_bytes
from hyperseek.engines.structure import StructureConfig, StructureEstimate
from hyperseek.errors import InputError, StoreError, brief, require

NUMBER_BYTES = 64
"""Bytes of a number in a request: a Python object, and text."""

REQUESTS = 64
"""Searches of a request."""

_BATCH = 1024  # vectors of a request
_NUMBERS = 1 << 20  # of a request: text of some 20 bytes each, and a server takes up to 32 MiB
_TIMEOUT = 60  # seconds
_MANY = 20_000  # vectors, beyond which the client advises a server

_COLLECTION = re.compile(r"[A-Za-z0-9_-]{1,100}-[0-9a-f]{12}")

_named: tuple[str, str | None] | None = None

logger = logging.getLogger(__name__)


class ServerConfig(StructureConfig):
    """Base of the configurations of what asks Qdrant.

    Attributes:
        server: Whether to use the server that `use_qdrant` or the environment names; None does so if there is one.
        collection: Beginning of the collection's name; a unique part follows.
        m: Links per vector.
        ef_construction: Candidates that are considered for the links of a new vector.
        effort: Candidates that a search keeps.
    """

    server: bool | None = None
    collection: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,100}$")
    m: int = Field(default=32, ge=2, le=256)
    ef_construction: int = Field(default=200, ge=4)
    effort: int = Field(default=128, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _no_server(cls, values: Any) -> Any:
        # A folder that comes from a stranger would otherwise say where vectors and keys are sent.
        if isinstance(values, dict) and {"url", "api_key_variable"} & values.keys():
            raise ValueError(
                "the server and its key are not part of an engine; name them with hyperseek.engines.use_qdrant or "
                "HYPERSEEK_QDRANT_URL and HYPERSEEK_QDRANT_API_KEY, and give server=True"
            )
        return values

    @property
    def resolved_server(self) -> bool:
        """Whether there is a server: unless the configuration says so, if one is named."""
        return named_server() is not None if self.server is None else self.server


class QdrantConfig(EngineConfig, ServerConfig):
    """Ask Qdrant: a server, or without one its client's own exact search, for tests and small collections.

    Attributes:
        kind: `qdrant`.
    """

    kind: Literal["qdrant"] = "qdrant"

    @property
    def graph(self) -> bool:
        """True: servers walk a graph."""
        return True


class QdrantEngine(Engine):
    """Sends searches to a collection of Qdrant; conditions on positions are part of each request."""

    kind: ClassVar[str] = "qdrant"
    _client: Any
    _collection: str

    @classmethod
    def estimate(cls, config: QdrantConfig, *, count: int, dimension: int) -> StructureEstimate:
        """Estimate its cost."""
        batch = NUMBER_BYTES * batch_rows(dimension) * dimension
        if config.resolved_server:
            # The server's memory and disk are not this machine's, and its speed is unknown.
            return StructureEstimate(BASE_BYTES, chunk_bytes(dimension) + batch, 0, None)
        # The client's LocalCollection: a matrix that grows by half or more, and some Python objects per vector.
        memory = BASE_BYTES + 2 * 4 * count * dimension + 1500 * count + batch
        return StructureEstimate(memory, chunk_bytes(dimension) + memory, 4 * count * dimension + 128, count * 1e-4)

    @classmethod
    def resolved(cls, config: QdrantConfig) -> QdrantConfig:
        """Use a server if one is named, unless the configuration says otherwise."""
        return config.model_copy(update={"server": config.resolved_server})

    @classmethod
    def _write(cls, folder: Path, chunks: Iterator[Tensor], info: EngineInfo) -> dict[str, Any]:
        config = info.config
        assert isinstance(config, QdrantConfig)
        if not config.server:
            warn_of_many(info.count)
            write_matrix(folder / MATRIX, chunks, info)
            return {"collection": "vectors"}
        client, details = connect(config), {"collection": new_name(config)}
        # Written first, so that the collection of a build that is killed can be deleted. Without all vectors it is not
        # opened: their number is compared.
        info.model_copy(update={"details": details}).write(folder)
        fill_collection(client, details["collection"], config, _batches(chunks), **_shape(info))
        return details

    def _load(self) -> None:
        assert isinstance(self.config, QdrantConfig)
        self._collection = str(self.info.details.get("collection"))
        if self.config.server:
            check_name(self._collection, self.folder)
        self._client = connect(self.config)
        if self.config.server:
            check_count(self._client, self._collection, len(self))
            return
        batches = _batches(read_matrix(self.folder / MATRIX))
        fill_collection(self._client, self._collection, self.config, batches, **_shape(self.info))

    def _search(
        self, queries: Tensor, k: int, effort: int | None, allowed: NDArray[np.bool_] | None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(self.config, QdrantConfig)
        batches = (part.tolist() for part in torch.split(queries, REQUESTS))
        found = ask(self._client, self._collection, self.config, batches, k=k, effort=effort, allowed=allowed)
        scores, positions = torch.full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1)
        sign = -1 if self.metric == "l2" else 1
        for row, points in enumerate(found):
            scores[row, : len(points)] = torch.tensor([sign * score for score, _ in points])
            positions[row, : len(points)] = torch.tensor([place for _, place in points], dtype=torch.int64)
        return scores, positions

    def discard(self) -> None:
        """Delete the collection from the server."""
        if self.info.count:
            _delete_collection(self._client, self._collection)


class Qdrant(VectorStructure):
    """Qdrant as a structure of an index."""

    config_type = QdrantConfig
    engine = QdrantEngine

    @classmethod
    def discard(cls, folder: Path) -> None:
        """Delete the collections from the server."""
        for description in folder.glob(f"chart-*/{EngineInfo.file}"):
            info = EngineInfo.read(description.parent)
            if isinstance(info.config, QdrantConfig) and info.config.server and info.count:
                discard_collection(str(info.details.get("collection")), description.parent)


def use_qdrant(url: str | None, *, api_key: str | None = None) -> None:
    """Name the server of all Qdrant engines of this process, built or opened from now on.

    Args:
        url: For example `"http://localhost:6333"`; None goes back to `HYPERSEEK_QDRANT_URL`.
        api_key: Its key; if None, `HYPERSEEK_QDRANT_API_KEY` if `url` is None too, and no key otherwise.
    """
    global _named
    _named = None if url is None else (url, api_key)


def named_server() -> tuple[str, str | None] | None:
    """Return the URL and the key of the server that the caller or the environment names; None for no server."""
    if _named is not None:
        return _named
    url = os.environ.get("HYPERSEEK_QDRANT_URL")
    return (url, os.environ.get("HYPERSEEK_QDRANT_API_KEY")) if url else None


def connect(config: ServerConfig) -> Any:
    """Return a client of the server, or one that searches by itself.

    Args:
        config: Whether there is a server.

    Returns:
        The client.

    Raises:
        StoreError: No server is named.
        MissingExtraError: The client is not installed.
    """
    client = require("qdrant_client", extra="qdrant").QdrantClient
    if not config.server:
        return client(location=":memory:")
    server = named_server()
    if server is None:
        raise StoreError(
            "the vectors of this engine are on a Qdrant server, and none is named; set HYPERSEEK_QDRANT_URL (and "
            "HYPERSEEK_QDRANT_API_KEY), or call hyperseek.engines.use_qdrant(url, api_key=...)"
        )
    url, key = server
    # Comparing versions would run in a thread of its own and warn from there.
    try:
        return client(url=url, api_key=key, timeout=_TIMEOUT, check_compatibility=False)
    except ValueError as error:
        raise InputError(
            f"{url!r} is not the URL of a Qdrant server ({brief(error)}); give one as http://HOST:6333"
        ) from None


def new_name(config: ServerConfig) -> str:
    """Return a name for a collection: a unique one, since an index rebuilds an engine while the old one is in use."""
    return f"{config.collection or 'hyperseek'}-{uuid.uuid4().hex[:12]}"


def batch_rows(dimension: int) -> int:
    """Return how many vectors a request may have."""
    return min(_BATCH, max(1, _NUMBERS // dimension))


def check_name(collection: str, folder: Path) -> None:
    """Raise StoreError unless the collection that a folder names is one that engines make.

    A folder may come from a stranger, and the collection that it names can be read and deleted.
    """
    if not _COLLECTION.fullmatch(collection):
        raise StoreError(
            f"{folder} names {collection[:100]!r}, which is not a collection of an engine; build the engine again"
        )


def check_count(client: Any, collection: str, count: int) -> None:
    """Raise StoreError unless the server has a collection of `count` points."""
    with _server_errors():
        there = client.collection_exists(collection)
        found = client.count(collection, exact=True).count if there else 0
    if found != count:
        raise StoreError(
            f"the collection {collection!r} on the Qdrant server holds {found} vectors, not the {count} of this "
            f"engine; build it again"
        )


def warn_of_many(count: int) -> None:
    """Warn where the client alone would have too many points."""
    if count > _MANY:
        logger.warning("%d vectors are many for Qdrant without a server; name one with HYPERSEEK_QDRANT_URL", count)


def fill_collection(
    client: Any,
    collection: str,
    config: ServerConfig,
    batches: Iterable[tuple[list[int], list[Any]]],
    *,
    dimension: int,
    distance: str,
    comparator: str | None = None,
) -> None:
    """Create a collection and send points to it; one that is not finished is deleted.

    Args:
        client: As from `connect`.
        collection: Its name.
        config: Links and candidates of the graph.
        batches: Ids and vectors of one request each.
        dimension: Numbers of a vector.
        distance: As `Distance` of the client names it.
        comparator: Of points of several vectors, as `MultiVectorComparator` names it; None for points of one.

    Raises:
        StoreError: The server did not do what was asked.
    """
    models = require("qdrant_client.models", extra="qdrant")
    several = None
    if comparator is not None:
        several = models.MultiVectorConfig(comparator=models.MultiVectorComparator[comparator])
    vectors = models.VectorParams(size=dimension, distance=models.Distance[distance], multivector_config=several)
    graph = models.HnswConfigDiff(m=config.m, ef_construct=config.ef_construction)
    with _server_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Local mode is not recommended")  # we have said so
        client.create_collection(collection, vectors_config=vectors, hnsw_config=graph)
        try:
            for ids, points in batches:
                client.upsert(collection, points=models.Batch(ids=ids, vectors=points), wait=True)
        except BaseException:
            client.delete_collection(collection)
            raise


def discard_collection(collection: str, folder: Path) -> None:
    """Delete the collection that a folder names from the server; one that is not there is no error.

    Args:
        collection: Its name.
        folder: The folder.

    Raises:
        StoreError: No engine made a collection of this name, or the server did not do what was asked.
    """
    check_name(collection, folder)
    _delete_collection(connect(QdrantConfig(server=True)), collection)


def _delete_collection(client: Any, collection: str) -> None:
    with _server_errors():
        client.delete_collection(collection)


def ask(
    client: Any,
    collection: str,
    config: ServerConfig,
    batches: Iterable[list[Any]],
    *,
    k: int,
    effort: int | None,
    allowed: NDArray[np.bool_] | None,
) -> Iterator[list[tuple[float, int]]]:
    """Search a collection.

    Args:
        client: As from `connect`.
        collection: Its name.
        config: Whether there is a server, and its effort.
        batches: The queries of one request each.
        k: Points per query, at least 1.
        effort: Candidates that a search keeps; None for the configuration's.
        allowed: `(N,)`: ids that may be found; None for all.

    Yields:
        Scores and ids of the points that each query found.

    Raises:
        StoreError: The server did not do what was asked.
    """
    models = require("qdrant_client.models", extra="qdrant")
    settings: dict[str, Any] = {"limit": k, "filter": None if allowed is None else _condition(models, allowed)}
    if config.server:
        settings["params"] = models.SearchParams(hnsw_ef=max(effort or config.effort, k))
    for queries in batches:
        requests = [models.QueryRequest(query=query, **settings) for query in queries]
        with _server_errors():
            answers = client.query_batch_points(collection, requests=requests)
        for answer in answers:
            yield [(point.score, point.id) for point in answer.points]


def _shape(info: EngineInfo) -> dict[str, Any]:
    return {"dimension": info.dimension, "distance": "EUCLID" if info.metric == "l2" else "DOT"}


def _batches(chunks: Iterable[Tensor]) -> Iterator[tuple[list[int], list[Any]]]:
    start = 0
    for chunk in chunks:
        for part in torch.split(chunk, batch_rows(chunk.shape[1])):
            yield list(range(start, start + len(part))), part.tolist()
            start += len(part)


def _condition(models: Any, allowed: NDArray[np.bool_]) -> Any:
    """Return a condition that is equivalent to a mask: the shorter of the lists of allowed and of other positions."""
    few = 2 * int(allowed.sum()) <= len(allowed)
    ids = models.HasIdCondition(has_id=np.flatnonzero(allowed if few else ~allowed).tolist())
    return models.Filter(must=[ids]) if few else models.Filter(must_not=[ids])


@contextmanager
def _server_errors() -> Iterator[None]:
    exceptions = require("qdrant_client.http.exceptions", extra="qdrant")
    try:
        yield
    except exceptions.ApiException as error:
        server = named_server()
        raise StoreError(
            f"Qdrant at {server[0] if server else 'the server'} did not do what was asked ({brief(error)}); is it "
            f"running?"
        ) from error
