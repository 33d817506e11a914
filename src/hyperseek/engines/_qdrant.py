"""Qdrant: how an engine outside this process is filled and asked.

A server keeps the vectors in a collection of its own and answers searches. Without a server the client's own exact
search takes its place, in memory: its files would be pickles, so the vectors lie in a plain file of the engine's folder
and are handed to the client when the engine is opened.
"""

from __future__ import annotations

import logging
import os
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._errors import InputError, StoreError, require
from hyperseek.engines._configs import QdrantConfig
from hyperseek.engines._engine import Engine, EngineInfo
from hyperseek.engines._scan import MATRIX, read_matrix, write_matrix

_BATCH = 1024  # vectors of a request; a server takes up to 32 MiB
_REQUESTS = 64  # searches of a request
_TIMEOUT = 60  # seconds
_MANY = 20_000  # vectors, beyond which the client advises a server

_LOGGER = logging.getLogger(__name__)


class QdrantEngine(Engine):
    """Sends searches to a collection of Qdrant; conditions on positions are part of each request."""

    kind: ClassVar[str] = "qdrant"
    _client: Any
    _collection: str

    @classmethod
    def _write(cls, folder: Path, chunks: Iterator[Tensor], info: EngineInfo) -> dict[str, Any]:
        config = info.config
        assert isinstance(config, QdrantConfig)
        if config.url is None:
            if info.count > _MANY:
                _LOGGER.warning("%d vectors are many for Qdrant without a server; give its url", info.count)
            write_matrix(folder / MATRIX, chunks, info)
            return {"collection": "vectors"}
        # A name of its own for each: an index builds an engine anew while the old one is in use.
        collection = f"{config.collection or 'hyperseek'}-{uuid.uuid4().hex[:12]}"
        client = connect(config)
        with _server_errors(config):
            _create(client, collection, info)
            try:
                _upload(client, collection, chunks)
            except BaseException:
                client.delete_collection(collection)
                raise
        return {"collection": collection}

    def _load(self) -> None:
        assert isinstance(self.config, QdrantConfig)
        self._collection = self.info.details["collection"]
        self._client = connect(self.config)
        if self.config.url is None:
            _create(self._client, self._collection, self.info)
            _upload(self._client, self._collection, read_matrix(self.folder / MATRIX))
            return
        with _server_errors(self.config):
            there = self._client.collection_exists(self._collection)
            count = self._client.count(self._collection, exact=True).count if there else 0
        if count != len(self):
            raise StoreError(
                f"the collection {self._collection!r} at {self.config.url} holds {count} vectors, not the "
                f"{len(self)} of this engine; build it again"
            )

    def _search(
        self, queries: Tensor, k: int, effort: int | None, allowed: NDArray[np.bool_] | None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(self.config, QdrantConfig)
        models = require("qdrant_client.models", extra="qdrant")
        settings: dict[str, Any] = {"limit": k, "filter": None if allowed is None else _condition(models, allowed)}
        if self.config.url is not None:
            settings["params"] = models.SearchParams(hnsw_ef=max(effort or self.config.effort, k))
        scores, positions = torch.full((len(queries), k), -torch.inf), torch.full((len(queries), k), -1)
        sign = -1 if self.metric == "l2" else 1
        for start in range(0, len(queries), _REQUESTS):
            part = queries[start : start + _REQUESTS].tolist()
            requests = [models.QueryRequest(query=query, **settings) for query in part]
            with _server_errors(self.config):
                answers = self._client.query_batch_points(self._collection, requests=requests)
            for row, answer in enumerate(answers, start):
                found = answer.points
                scores[row, : len(found)] = torch.tensor([sign * point.score for point in found])
                positions[row, : len(found)] = torch.tensor([point.id for point in found], dtype=torch.int64)
        return scores, positions

    def discard(self) -> None:
        """Delete the collection from the server."""
        if self.info.count:
            assert isinstance(self.config, QdrantConfig)
            with _server_errors(self.config):
                self._client.delete_collection(self._collection)


def connect(config: QdrantConfig) -> Any:
    """Return a client of the server, or one that searches by itself.

    Args:
        config: Names the server.

    Returns:
        The client.

    Raises:
        InputError: The environment variable with the key is not set.
        MissingExtraError: The client is not installed.
    """
    client = require("qdrant_client", extra="qdrant").QdrantClient
    if config.url is None:
        return client(location=":memory:")
    key = None
    if config.api_key_variable is not None:
        key = os.environ.get(config.api_key_variable)
        if key is None:
            raise InputError(f"the environment variable {config.api_key_variable}, for the key of Qdrant, is not set")
    # The comparison of versions would run in a thread of its own and warn from there.
    return client(url=config.url, api_key=key, timeout=_TIMEOUT, check_compatibility=False)


def _create(client: Any, collection: str, info: EngineInfo) -> None:
    models = require("qdrant_client.models", extra="qdrant")
    config = info.config
    assert isinstance(config, QdrantConfig)
    distance = models.Distance.EUCLID if info.metric == "l2" else models.Distance.DOT
    client.create_collection(
        collection,
        vectors_config=models.VectorParams(size=info.dimension, distance=distance),
        hnsw_config=models.HnswConfigDiff(m=config.m, ef_construct=config.ef_construction),
    )


def _upload(client: Any, collection: str, chunks: Iterable[Tensor]) -> None:
    models = require("qdrant_client.models", extra="qdrant")
    start = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Local mode is not recommended")  # we have said so
        for chunk in chunks:
            for part in torch.split(chunk, _BATCH):
                ids = list(range(start, start + len(part)))
                client.upsert(collection, points=models.Batch(ids=ids, vectors=part.tolist()), wait=True)
                start += len(part)


def _condition(models: Any, allowed: NDArray[np.bool_]) -> Any:
    """Return the shorter of the two lists that say the same as a mask: of what is allowed, or of what is not."""
    few = 2 * int(allowed.sum()) <= len(allowed)
    ids = models.HasIdCondition(has_id=np.flatnonzero(allowed if few else ~allowed).tolist())
    return models.Filter(must=[ids]) if few else models.Filter(must_not=[ids])


@contextmanager
def _server_errors(config: QdrantConfig) -> Iterator[None]:
    exceptions = require("qdrant_client.http.exceptions", extra="qdrant")
    try:
        yield
    except exceptions.ApiException as error:
        raise StoreError(f"Qdrant at {config.url} did not do what was asked: {error}") from error
