"""A token index: late interaction that looks only at documents with tokens near those of the query.

After PLAID (Santhanam and others, arXiv 2205.09707); `_token_parts.py` says how it is searched.

Centroids are learned on a sample of fixed size, then documents are assigned and appended, so building takes the same
memory whatever their number. Documents that are added later are appended as parts of their own; small parts are joined
with the next, so their number grows with the logarithm of what was added.

Shapes: `N` documents, `n` candidates.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hyperseek._config import LARGEST_SEED, Config
from hyperseek._files import read_tensors, reading, write_tensors
from hyperseek._folders import CHECKED_AT_ONCE, Checksum, check_files, checksum_folder, read_sealed, write_sealed
from hyperseek._long_work import progress, stop_asked, stop_here, stoppable
from hyperseek._machine import run_on_cores
from hyperseek._order import best_positions
from hyperseek.engines._token_codes import Codebook, Reservoir
from hyperseek.engines._token_parts import Part, PartNotes, PartWriter, Walk, write_joined
from hyperseek.engines.engine import ASSUMED_TOKENS, BASE_BYTES, TOKEN_CHUNK, build_seconds, check_tokens
from hyperseek.engines.structure import (
    KEYS_FILE,
    KIND_FILE,
    RECALL_K,
    CandidateRequest,
    Documents,
    Ranking,
    Structure,
    StructureConfig,
    StructureEstimate,
    recall_queries,
    recall_tokens,
)
from hyperseek.errors import InputError, StoreError
from hyperseek.scoring import MaxSimScorer, Scorer, Space, TokenPoints

_BOOK = "codebook.safetensors"
_QUERIES = "queries.safetensors"
_STATE = "building.json"
_OURS = (_STATE, KEYS_FILE, KIND_FILE)
_REMEDY = "build the engine again"
_COMMIT_EVERY = 5.0  # seconds
# Vectors of the sample for each centroid, at least.
_PER_CENTROID = 8

# Recall is that of so many candidates, as the plan has that searches unless told otherwise.
_CANDIDATES = 90
_PROBES = (2, 4, 8, 16, 32)
_ENOUGH = 0.98

logger = logging.getLogger(__name__)


class CentroidsConfig(StructureConfig):
    """Find documents by the centroids of their tokens; for late interaction.

    Attributes:
        kind: `centroids`.
        centroids: How many; None for the power of two below 16 times the root of the number of tokens, as in PLAID,
            and at most an eighth of the sample.
        bits: What is kept of each number of a token beside its centroid: 2 or 4 bits, or 16 for the number itself.
        probes: Centroids into whose lists a query token looks, unless a search says otherwise: its `effort`. None for
            as few as find enough in a measurement that ends the build, with queries drawn from the documents' tokens.
        sample: Tokens on which centroids are learned.
        seed: Of the sample and the first centroids.
    """

    kind: Literal["centroids"] = "centroids"
    centroids: int | None = Field(default=None, ge=1, le=1 << 20)
    bits: Literal[2, 4, 16] = 2
    probes: int | None = Field(default=None, ge=1)
    sample: int = Field(default=1 << 18, ge=1)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)


class _Details(Config):
    """What `engines.json` keeps of a token index.

    Attributes:
        centroids: How many.
        bits: Of the codes.
        probes: Those of a search that does not say.
        recall: What these find of the exact best `RECALL_K` when the index is built; None where that was not measured.
        parts: In order.
        files: Checksums.
    """

    centroids: int = Field(ge=1)
    bits: int
    probes: int = Field(ge=1)
    recall: float | None = None
    parts: tuple[PartNotes, ...] = Field(min_length=1)
    files: dict[str, Checksum]


class Centroids(Structure):
    """A token index, open for search.

    Args:
        folder: Where it lies.
        book: Centroids and buckets.
        parts: In order.
        probes: Those of a search that does not say.
        recall: What these find, as it was measured.
    """

    config_type = CentroidsConfig
    resumable: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    def __init__(
        self, folder: Path, book: Codebook, parts: Sequence[Part], *, probes: int, recall: float | None = None
    ) -> None:
        self.folder = folder
        self.book = book
        self.parts = tuple(parts)
        self.probes = probes
        self._recall = recall

    def __len__(self) -> int:
        return sum(part.notes.documents for part in self.parts)

    @classmethod
    def build(cls, folder: Path, documents: Documents, config: CentroidsConfig) -> dict[str, Any]:
        """Learn centroids on a sample, then assign and append all documents; a killed build goes on where it was."""
        check_tokens(documents.space, config.kind)
        notes = _noted(folder, config)
        if notes is None:
            notes = PartNotes(folder="part-0")
            _learn(folder, documents, config)
            write_sealed(folder / _STATE, _state(config, notes))
        book = _book(folder)
        notes = _append(folder, documents, config, book, notes)
        index = cls(folder, book, [Part(folder, notes, book)], probes=config.probes or 1)
        probes, recall = _measured(index, documents, config)
        for left in (_STATE, _QUERIES):
            (folder / left).unlink()
        details = _Details(
            centroids=len(book),
            bits=config.bits,
            probes=probes,
            recall=recall,
            parts=(notes,),
            files=checksum_folder(folder, leave_out=_OURS),
        )
        return details.model_dump(mode="json")

    @classmethod
    def extend(cls, folder: Path, documents: Documents, config: Any, details: Mapping[str, Any]) -> dict[str, Any]:
        """Assign documents to the centroids that there are, and append them as a part."""
        book, known = _book(folder), _read(folder, details)
        parts = list(known.parts)
        parts.append(_append(folder, documents, None, book, PartNotes(folder=_next(parts))))
        # So a part is at least twice as large as the next one, but for the first, which is left as it was built.
        while len(parts) > 2 and parts[-2].documents < 2 * parts[-1].documents:
            parts[-2:] = [_joined(folder, known, parts, parts[-2:], [None, None], book)]
        return _changed(known, folder, parts)

    @classmethod
    def compact(cls, folder: Path, kept: NDArray[np.bool_], config: Any, details: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out documents, and join what was added: what is left are the documents of the build, and the others."""
        book, known = _book(folder), _read(folder, details)
        parts = list(known.parts)
        masks = np.split(kept, np.cumsum([part.documents for part in parts])[:-1])
        if not masks[0].all():
            parts[0] = _joined(folder, known, parts, parts[:1], masks[:1], book)
        if len(parts) > 2 or not all(mask.all() for mask in masks[1:]):
            parts[1:] = [_joined(folder, known, parts, parts[1:], masks[1:], book)]
        return _changed(known, folder, parts)

    @classmethod
    def open(cls, folder: Path, documents: Documents, config: Any, details: Mapping[str, Any]) -> Self:
        """Open it."""
        known = _read(folder, details)
        check_files(folder, known.files, source=folder, remedy=_REMEDY, at_most=CHECKED_AT_ONCE)
        book = _book(folder)
        if book.dimension != documents.space.dimension:
            raise StoreError(
                f"{folder} has vectors of {book.dimension} numbers, and the index has vectors of "
                f"{documents.space.dimension}; {_REMEDY}"
            )
        parts = [Part(folder, notes, book) for notes in known.parts]
        for part in parts:
            part.check(remedy=_REMEDY)
        return cls(folder, book, parts, probes=known.probes, recall=known.recall)

    def can_search(self, scorer: Scorer) -> bool:
        """Whether the queries are sets of token vectors."""
        return scorer[:1].token_vectors() is not None

    @property
    def recall(self) -> float | None:
        """What a search finds of the exact best, as it was measured when the index was built."""
        return self._recall

    def efforts(self, n: int) -> Sequence[int | None]:
        """Return numbers of centroids into whose lists each query token looks."""
        return (1, *_PROBES)

    @classmethod
    def stages(cls, name: str, n: int) -> list[dict[str, Any]]:
        """Return the source and the step of a plan; codes rank so well that fewer candidates do."""
        return super().stages(name, n * 3 // 10 or 1)

    def search(self, request: CandidateRequest, *, effort: int | None = None) -> list[Ranking]:
        """Find candidates; their scores are those of their codes.

        Args:
            request: The queries, and what may be found.
            effort: Centroids into whose lists each query token looks; None for the configuration's.

        Returns:
            One ranking. With as many probes as there are centroids and as many candidates as documents it has them all.

        Raises:
            InputError: The queries are no sets of token vectors.
        """
        if not self.can_search(request.scorer):
            raise InputError(
                f"the engine {request.name!r} cannot be searched by a {request.scorer.kind!r} scorer: its queries are "
                f"no sets of token vectors"
            )
        scores, places, reached = self._find(request.scorer, request.n, request.allowed, effort or self.probes)
        request.notes["reached"] = reached
        return [best_positions(scores, places)]

    def _find(
        self, scorer: Scorer, n: int, allowed: NDArray[np.bool_] | None, probes: int
    ) -> tuple[Tensor, Tensor, float]:
        """Return scores and positions, in no order, and how many documents the lists led to."""
        scorer, count = scorer.to("cpu"), len(scorer)
        vectors = scorer.token_vectors()
        assert vectors is not None
        width = min(n, len(self) if allowed is None else int(allowed.sum()))
        scores, places = torch.full((count, width), -torch.inf), torch.full((count, width), -1)
        pending = iter(range(count))
        seen: list[int] = []

        def work() -> None:
            walk = Walk(self.book, self.parts, allowed, width)
            for query in pending:
                found, own = walk.find(scorer[query : query + 1], vectors[0][query], vectors[1][query], probes)
                scores[query], places[query] = own, torch.from_numpy(found)
                seen.append(walk.seen)

        if width:
            # What is read only now may have been damaged meanwhile.
            with reading(self.folder, "a whole token index", error=StoreError, remedy=_REMEDY):
                run_on_cores(work, at_most=count)
        return scores, places, float(np.mean(seen)) if seen else 0.0

    @classmethod
    def estimate(cls, space: Space, config: CentroidsConfig, *, count: int) -> StructureEstimate:
        """Estimate the cost for documents of 120 tokens, as in PLAID."""
        check_tokens(space, config.kind)
        tokens, width = ASSUMED_TOKENS * count, space.dimension
        centroids = _centroid_count(config, tokens)
        book = 4 * centroids * width
        disk = tokens * (width * config.bits // 8 + 2 + 4) + book + 8 * (count + centroids)
        sample = 4 * width * min(tokens, config.sample)
        # The sample twice, while centroids are learned from most of it; products with cells; a chunk of documents.
        building = BASE_BYTES + 3 * sample + 3 * book + 12 * TOKEN_CHUNK * ASSUMED_TOKENS * width + (96 << 20)
        operations = 2.0 * width * (8 * min(tokens, config.sample) + tokens) * 4 * math.sqrt(centroids)
        return StructureEstimate(BASE_BYTES + disk, building, disk, build_seconds(operations / 4e9))

    @classmethod
    def verify(cls, folder: Path, details: Mapping[str, Any]) -> None:
        """Compare all bytes with what was written; StoreError names a file that differs."""
        check_files(folder, _read(folder, details).files, source=folder, remedy=_REMEDY)

    @classmethod
    def described(cls, details: Mapping[str, Any]) -> dict[str, Any]:
        """Return sizes, and the quantisation error of the oldest and of the newest documents: see `drift`."""
        known = _Details.from_mapping(details, error=StoreError)
        shown: dict[str, Any] = {
            "centroids": known.centroids,
            "bits": known.bits,
            "tokens": sum(part.tokens for part in known.parts),
            "parts": len(known.parts),
            "probes": known.probes,
        }
        if known.recall is not None:
            shown["recall"] = round(known.recall, 4)
        errors = [part.centroid_error / part.squares for part in known.parts if part.squares]
        if errors:
            shown["centroid_error"] = round(errors[0], 4)
        if len(errors) > 1:
            shown["centroid_error_of_newest"] = round(errors[-1], 4)
            shown["drift"] = round(errors[-1] / errors[0] - 1, 3)
        return shown


def _centroid_count(config: CentroidsConfig, tokens: int) -> int:
    if config.centroids is not None:
        return config.centroids
    wanted = 1 << int(math.log2(16 * math.sqrt(max(1, tokens))))
    return max(1, min(wanted, config.sample // _PER_CENTROID))


def _learn(folder: Path, documents: Documents, config: CentroidsConfig) -> None:
    """Learn the codebook on a sample of the stream, and draw queries to measure by."""
    reservoir, generator = Reservoir(config.sample, seed=config.seed), torch.Generator().manual_seed(config.seed)
    chosen = recall_queries(len(documents), seed=config.seed)
    asked: list[Tensor] = []
    row = 0
    with progress("sampling tokens", len(documents), unit="documents") as bar:
        for chunk in documents.chunks(min(TOKEN_CHUNK, documents.chunk_rows)):
            reservoir.add(chunk.rows.float())
            for place in (chosen[(chosen >= row) & (chosen < row + len(chunk))] - row).tolist():
                asked.append(recall_tokens(chunk[place : place + 1].rows.float(), generator))
            row += len(chunk)
            bar.advance(len(chunk))
    queries = TokenPoints.from_documents([*asked, torch.zeros(0, documents.space.dimension)])
    vectors, lengths = queries.tensors()
    write_tensors(folder / _QUERIES, {"vectors": vectors, "lengths": lengths[:-1], "documents": chosen})
    sample = reservoir.sample
    sample = sample[sample.isfinite().all(dim=1)]  # what is not is named when it is assigned
    if not len(sample):
        sample = torch.zeros(1, documents.space.dimension)
    count = _centroid_count(config, reservoir.seen)
    logger.info("learning %d centroids on %d of %d tokens", count, len(sample), reservoir.seen)
    bits = 0 if config.bits == 16 else config.bits
    with torch.no_grad():
        Codebook.learn(sample, centroids=count, bits=bits, seed=config.seed).save(folder / _BOOK)


def _append(
    folder: Path, documents: Documents, config: CentroidsConfig | None, book: Codebook, notes: PartNotes
) -> PartNotes:
    """Assign and append all documents behind those that were noted; with a configuration, note what is on the disk."""
    done, noted, passed = notes.documents, time.monotonic(), 0

    def stored() -> str:
        return f"{done:,} of {len(documents):,} documents are in {folder}; run the same again to resume"

    bar_of = progress("assigning tokens", len(documents), unit="documents", done=done)
    with stoppable(stored), bar_of as bar, PartWriter(folder, notes, book) as writer:
        for chunk in documents.chunks(min(TOKEN_CHUNK, documents.chunk_rows)):
            points = chunk[max(0, done - passed) :]
            passed += len(chunk)
            if not len(points):
                continue
            writer.add(points)
            bar.advance(len(points))
            if config is not None and (time.monotonic() - noted > _COMMIT_EVERY or stop_asked()):
                writer.flush()
                write_sealed(folder / _STATE, _state(config, writer.notes))
                noted, done = time.monotonic(), writer.notes.documents
                stop_here()
        return writer.finish()


def _measured(index: Centroids, documents: Documents, config: CentroidsConfig) -> tuple[int, float | None]:
    """Return the probes of a search, and the share of the exact best that it finds."""
    tensors, _ = read_tensors(index.folder / _QUERIES, error=StoreError, remedy=_REMEDY)
    queries, mask = TokenPoints.from_tensors(tensors["vectors"], tensors["lengths"]).padded()
    asked = mask.any(dim=1)
    k = min(RECALL_K, len(documents) - 1)
    if k < 1 or not asked.any():
        return config.probes or _PROBES[0], None
    scorer = MaxSimScorer(documents.space, queries[asked], mask[asked].float())
    best, places, row = torch.empty(len(scorer), 0), torch.empty(len(scorer), 0, dtype=torch.int64), 0
    with progress("measuring recall", len(documents), unit="documents") as bar, torch.no_grad():
        for chunk in documents.chunks(min(TOKEN_CHUNK, documents.chunk_rows)):
            own = torch.arange(row, row + len(chunk)).expand(len(scorer), -1)
            scores = torch.cat([best, scorer.score(chunk)], dim=1)
            best, order = scores.topk(min(k + 1, scores.shape[1]), dim=1)
            places = torch.cat([places, own], dim=1).gather(1, order)
            row += len(chunk)
            bar.advance(len(chunk))
    itself = (places == tensors["documents"][asked, None]).to(torch.uint8)
    places = places.gather(1, itself.sort(dim=1, stable=True).indices)[:, :k]  # behind the others
    recall = 0.0
    for probes in _PROBES if config.probes is None else (config.probes,):
        _, found, _ = index._find(scorer, _CANDIDATES, None, probes)
        recall = float((places[:, :, None] == found[:, None]).any(dim=2).float().mean())
        if recall >= _ENOUGH:
            break
    return probes, recall


def _next(parts: Sequence[PartNotes]) -> str:
    """Return the name of a part behind all others."""
    return f"part-{1 + max(int(part.folder.removeprefix('part-')) for part in parts)}"


def _joined(
    folder: Path,
    known: _Details,
    parts: Sequence[PartNotes],
    some: Sequence[PartNotes],
    kept: Sequence[NDArray[np.bool_] | None],
    book: Codebook,
) -> PartNotes:
    """Write some of the parts, or what is kept of them, as one, and delete them; StoreError if one is damaged."""
    names = tuple(f"{notes.folder}/" for notes in some)
    noted = {name: checksum for name, checksum in known.files.items() if name.startswith(names)}
    check_files(folder, noted, source=folder, remedy=_REMEDY)
    opened = [(Part(folder, notes, book), mask) for notes, mask in zip(some, kept, strict=True)]
    joined = write_joined(folder, _next(parts), opened, book)
    del opened
    for notes in some:
        shutil.rmtree(folder / notes.folder)
    return joined


def _state(config: CentroidsConfig, notes: PartNotes) -> dict[str, Any]:
    return {"config": config.model_dump(mode="json"), "part": notes.model_dump(mode="json")}


def _noted(folder: Path, config: CentroidsConfig) -> PartNotes | None:
    """Return how far an earlier build with the same configuration came; None where there is none."""
    path = folder / _STATE
    if not path.exists():
        return None
    try:
        state, intact = read_sealed(path, "the state of a build", remedy=_REMEDY)
        notes = PartNotes.from_mapping(state.get("part"), error=StoreError)
    except StoreError:
        return None
    return notes if intact and state.get("config") == config.model_dump(mode="json") else None


def _book(folder: Path) -> Codebook:
    return Codebook.load(folder / _BOOK, remedy=_REMEDY)


def _changed(known: _Details, folder: Path, parts: Sequence[PartNotes]) -> dict[str, Any]:
    # Files are written once, under names that never come again: what was noted of the others stays true, and reading
    # them again would take as long as the index is large, and record damage as what was written.
    files = checksum_folder(folder, leave_out=_OURS, known=known.files)
    return known.model_copy(update={"parts": tuple(parts), "files": files}).model_dump(mode="json")


def _read(folder: Path, details: Mapping[str, Any]) -> _Details:
    return _Details.from_mapping(details, source=str(folder), error=StoreError)
