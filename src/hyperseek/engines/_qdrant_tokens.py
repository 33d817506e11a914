"""Token vectors in Qdrant: each document is a multivector, and the server ranks by MaxSim.

As with single vectors (`_qdrant.py`), a server keeps them in a collection of its own. Without a server the vectors are
in plain files in the structure's folder, and the client searches them by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from hyperseek._files import read_tensors, reading, write_tensors
from hyperseek._folders import CHECKED_AT_ONCE, checksum_folder
from hyperseek._long_work import progress
from hyperseek._order import best_positions
from hyperseek.engines._qdrant import (
    NUMBER_BYTES,
    REQUESTS,
    ServerConfig,
    ask,
    batch_rows,
    check_count,
    check_name,
    connect,
    discard_collection,
    fill_collection,
    new_name,
    warn_of_many,
)
from hyperseek.engines.engine import ASSUMED_TOKENS, BASE_BYTES, LONGEST, TOKEN_CHUNK, check_tokens
from hyperseek.engines.structure import (
    KEYS_FILE,
    KIND_FILE,
    CandidateRequest,
    Documents,
    FolderDescription,
    Ranking,
    Structure,
    StructureEstimate,
)
from hyperseek.errors import InputError, StoreError
from hyperseek.scoring import Scorer, Space, TokenPoints

_TOKENS = "tokens-{}.safetensors"  # by the number of the chunk
_OURS = ("collection.json", KEYS_FILE, KIND_FILE)
_REMEDY = "build the engine again"


class QdrantTokensConfig(ServerConfig):
    """Ask Qdrant for documents of many token vectors: a server, or without one its client's own exact search.

    Attributes:
        kind: `qdrant-tokens`.
        m: Links per document; 0 for no graph, so that each search compares all documents.
    """

    kind: Literal["qdrant-tokens"] = "qdrant-tokens"
    m: int = Field(default=32, ge=0, le=256)


class _Description(FolderDescription):
    """What the folder keeps: where the vectors are.

    Attributes:
        server: Whether they are on a server.
        collection: Name of the collection there.
        dimension: Numbers of a token vector.
        documents: Documents with tokens.
        chunks: Files of tokens, if there is no server.
    """

    file: ClassVar[str] = "collection.json"
    what: ClassVar[str] = "the description of a collection"
    remedy: ClassVar[str] = _REMEDY

    server: bool
    collection: str
    dimension: int = Field(ge=1)
    documents: int = Field(default=0, ge=0)
    chunks: int = Field(default=0, ge=0)


class QdrantTokens(Structure):
    """Token vectors in a collection of Qdrant, open for search.

    Args:
        client: Of the server, or one that searches by itself.
        collection: Name of the collection.
        config: With `server` decided.
    """

    config_type = QdrantTokensConfig

    def __init__(self, client: Any, collection: str, config: QdrantTokensConfig) -> None:
        self.client = client
        self.collection = collection
        self.config = config

    @classmethod
    def build(cls, folder: Path, documents: Documents, config: QdrantTokensConfig) -> dict[str, Any]:
        """Send all documents that have tokens to a new collection, or write them into the folder.

        Args:
            folder: An empty folder.
            documents: The documents of the index.
            config: The server, and the graph.

        Returns:
            The number of documents and tokens, for `hyperseek inspect index`.

        Raises:
            InputError: The documents have no token vectors, or one has a vector that cannot be compared.
            StoreError: The server did not do what was asked; the collection is deleted.
        """
        check_tokens(documents.space, config.kind)
        config = _decided(config, config.resolved_server)
        counts = {"documents": 0, "tokens": 0}
        noted = _Description(
            server=bool(config.server),
            collection=new_name(config) if config.server else "tokens",
            dimension=documents.space.dimension,
        )
        with progress("sending tokens" if config.server else "writing tokens", len(documents), unit="documents") as bar:

            def chunks() -> Iterator[TokenPoints]:
                for chunk in _checked(documents):
                    yield chunk
                    counts["documents"] += int((chunk.lengths > 0).sum())
                    counts["tokens"] += len(chunk.rows)
                    bar.advance(len(chunk))

            if config.server:
                client = connect(config)
                # Written first, so that the collection of a build that is killed can be deleted.
                noted.write(folder)
                _fill(client, noted, config, chunks())
            else:
                number = 0
                for number, chunk in enumerate(chunks(), 1):
                    write_tensors(
                        folder / _TOKENS.format(number - 1),
                        {"vectors": chunk.rows.clone(), "lengths": chunk.lengths.clone()},
                    )
                warn_of_many(counts["documents"])
                noted = noted.model_copy(update={"chunks": number})
        files = checksum_folder(folder, leave_out=_OURS)
        noted.model_copy(update={"documents": counts["documents"], "files": files}).write(folder)
        return counts

    @classmethod
    def open(cls, folder: Path, documents: Documents, config: QdrantTokensConfig, details: Mapping[str, Any]) -> Self:
        """Connect to the server and compare the number of its documents; without one, give them to the client."""
        noted = _Description.read(folder)
        if noted.dimension != documents.space.dimension:
            raise StoreError(
                f"{folder} has vectors of {noted.dimension} numbers, and the index has vectors of "
                f"{documents.space.dimension}; {_REMEDY}"
            )
        config = _decided(config, noted.server)
        if noted.server:
            check_name(noted.collection, folder)
            client = connect(config)
            check_count(client, noted.collection, noted.documents)
            return cls(client, noted.collection, config)
        noted.check(folder, at_most=CHECKED_AT_ONCE)
        client = connect(config)
        with reading(folder, "a whole engine", error=StoreError, remedy=_REMEDY):
            _fill(client, noted, config, _stored(folder, noted))
        return cls(client, noted.collection, config)

    def can_search(self, scorer: Scorer) -> bool:
        """Whether the queries are sets of token vectors, none of negative weight."""
        vectors = scorer.token_vectors()
        return vectors is not None and bool((vectors[1] >= 0).all())

    def efforts(self, n: int) -> Sequence[int | None]:
        """Return numbers of candidates that the server's graph keeps; only None where all are compared."""
        return (n, 2 * n, 4 * n) if self.config.server and self.config.m else (None,)

    @classmethod
    def stages(cls, name: str, n: int) -> list[dict[str, Any]]:
        """Return the source and the step of a plan; scores are MaxSim already, so fewer candidates do."""
        return super().stages(name, n * 3 // 10 or 1)

    def search(self, request: CandidateRequest, *, effort: int | None = None) -> list[Ranking]:
        """Find candidates; their scores are MaxSim, each query token scaled by its weight.

        Args:
            request: The queries, and what may be found.
            effort: Candidates that the server's graph keeps; None for the configuration's.

        Returns:
            One ranking, without documents that have no tokens.

        Raises:
            InputError: The queries are no sets of token vectors, or a weight is negative.
            StoreError: The server did not do what was asked.
        """
        if not self.can_search(request.scorer):
            raise InputError(
                f"the engine {request.name!r} cannot be searched by this {request.scorer.kind!r} scorer: it needs "
                f"queries that are sets of token vectors, with weights of at least 0"
            )
        allowed = request.allowed
        if allowed is not None and allowed.all():
            allowed = None
        count = len(request.scorer)
        width = request.n if allowed is None else min(request.n, int(allowed.sum()))
        scores, places = torch.full((count, width), -torch.inf), torch.full((count, width), -1)
        if width:
            batches = _batches(_queries(request.scorer), most=REQUESTS)
            asked = (queries for _, queries in batches)
            found = ask(self.client, self.collection, self.config, asked, k=width, effort=effort, allowed=allowed)
            for row, points in enumerate(found):
                scores[row, : len(points)] = torch.tensor([score for score, _ in points])
                places[row, : len(points)] = torch.tensor([place for _, place in points], dtype=torch.int64)
        return [best_positions(scores, places)]

    @classmethod
    def estimate(cls, space: Space, config: QdrantTokensConfig, *, count: int) -> StructureEstimate:
        """Estimate the cost for documents of 120 tokens; of a server only the cost on this machine."""
        check_tokens(space, config.kind)
        width = space.dimension
        sending = BASE_BYTES + NUMBER_BYTES * batch_rows(width) * width + 12 * TOKEN_CHUNK * ASSUMED_TOKENS * width
        if config.resolved_server:
            return StructureEstimate(BASE_BYTES, sending, 0, None)
        disk = 4 * ASSUMED_TOKENS * count * width
        # The client keeps float64, and some Python objects per document.
        return StructureEstimate(sending + 2 * disk + 1500 * count, sending, disk, count * 1e-3)

    @classmethod
    def verify(cls, folder: Path, details: Mapping[str, Any]) -> None:
        """Compare all bytes with what was written; StoreError names a file that differs."""
        _Description.read(folder).check(folder)

    @classmethod
    def discard(cls, folder: Path) -> None:
        """Delete the collection from the server."""
        if not (folder / _Description.file).exists():
            return
        noted = _Description.read(folder)
        if noted.server:
            discard_collection(noted.collection, folder)


def _decided(config: QdrantTokensConfig, server: bool) -> QdrantTokensConfig:
    return config.model_copy(update={"server": server})


def _checked(documents: Documents) -> Iterator[TokenPoints]:
    """Stream the documents in float32; InputError names one that cannot be compared."""
    row = 0
    for chunk in documents.chunks(min(TOKEN_CHUNK, documents.chunk_rows)):
        points = TokenPoints.from_tensors(chunk.rows.detach().to("cpu", torch.float32), chunk.lengths.cpu())
        unusable = ~(torch.linalg.vector_norm(points.rows, dim=1) <= LONGEST)
        if unusable.any():
            place = points.document_of(int(unusable.nonzero()[0]))
            raise InputError(
                f"document {documents.ids[row + place].as_py()!r} has a token vector that cannot be compared: its "
                f"numbers are infinite, undefined, or its norm is beyond {LONGEST:g}"
            )
        yield points
        row += len(points)


def _stored(folder: Path, noted: _Description) -> Iterator[TokenPoints]:
    for number in range(noted.chunks):
        path = folder / _TOKENS.format(number)
        tensors, _ = read_tensors(path, "a file of token vectors", error=StoreError, remedy=_REMEDY)
        yield TokenPoints.from_tensors(tensors["vectors"], tensors["lengths"])


def _fill(client: Any, noted: _Description, config: QdrantTokensConfig, chunks: Iterable[TokenPoints]) -> None:
    def documents() -> Iterator[tuple[int, Tensor]]:
        row = 0
        for chunk in chunks:
            for place in chunk.lengths.nonzero()[:, 0].tolist():  # Qdrant has no empty multivectors
                yield row + place, chunk[place : place + 1].rows
            row += len(chunk)

    fill_collection(
        client,
        noted.collection,
        config,
        _batches(documents()),
        dimension=noted.dimension,
        distance="DOT",
        comparator="MAX_SIM",
    )


def _queries(scorer: Scorer) -> Iterator[tuple[int, Tensor]]:
    """Yield the tokens of each query, scaled by their weights; those without weight are left out."""
    vectors = scorer.token_vectors()
    assert vectors is not None
    tokens, weights = (part.detach().to("cpu", torch.float32) for part in vectors)
    for row, (own, scale) in enumerate(zip(tokens, weights, strict=True)):
        kept = scale > 0
        scaled = own[kept] * scale[kept, None]
        # A query without tokens scores 0 everywhere, as a zero vector does.
        yield row, scaled if len(scaled) else own.new_zeros(1, own.shape[1])


def _batches(items: Iterable[tuple[int, Tensor]], *, most: int | None = None) -> Iterator[tuple[list[int], list[Any]]]:
    """Yield numbers and token vectors of one request each: at most `most`, unless one alone has too many tokens."""
    numbers: list[int] = []
    sets: list[Any] = []
    tokens = 0
    for number, vectors in items:
        if numbers and (tokens + len(vectors) > batch_rows(vectors.shape[1]) or len(numbers) == most):
            yield numbers, sets
            numbers, sets, tokens = [], [], 0
        numbers.append(number)
        sets.append(vectors.tolist())
        tokens += len(vectors)
    if numbers:
        yield numbers, sets
