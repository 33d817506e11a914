"""Where an index comes from: a model and a corpus, whose cost is estimated first, or vectors made elsewhere."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from torch import Tensor

from hyperseek._documents import as_documents, with_vectors
from hyperseek.errors import FingerprintError, InputError, UnknownNameError, shown, size_in_words, time_in_words
from hyperseek.index._arguments import as_numbers
from hyperseek.index._long_documents import LongDocuments, Survey
from hyperseek.index._opening import check_retriever
from hyperseek.index._passages import split_documents
from hyperseek.index._splitting import Splitter, as_passages
from hyperseek.index._writing import PIECE, SHARD, Item, write_index
from hyperseek.scoring import Points, Space, TokenPoints, VectorPoints
from hyperseek.store.info import IndexInfo, Storage
from hyperseek.store.rows import encode_metadata
from hyperseek.types import Document

if TYPE_CHECKING:
    from hyperseek.models import Encoder, Retriever
    from hyperseek.nn.token_pooling import TokenPooling

# How far a vector made elsewhere may be from the model's own, relative to its length: half precision and another
# batch move it by less than a hundredth, another model, pooling or normalisation by far more.
_TOLERANCE = 0.05
# Of a pooling MiniLM in bfloat16, documents were at most 0.08 from themselves in another batch, and at least 0.3 from
# other documents.
_TOLERANCE_OF_MEAN = 0.15
_CHECKED = 8

_BYTES = {"float32": 4, "float16": 2}

logger = logging.getLogger(__name__)


def build_index(
    path: str | os.PathLike[str],
    documents: Iterable[Any],
    model: Encoder,
    *,
    storage: Storage,
    dtype: str,
    name: str | None,
    total: int | None,
    resume: bool,
    overwrite: bool,
    pooling: Mapping[str, Any] | None = None,
    passages: object = None,
    shard: int = SHARD,
) -> None:
    """Encode a corpus into an index; see `Index.build`."""
    check_retriever(model)
    pooler = _pooler(pooling, model)
    number = resolve_dtype(dtype, model)
    split = as_passages(passages, model)
    items = ((row, None) for row in rows_of(as_documents(documents), model, split))
    _check_storage(storage)
    options = None if pooler is None else pooler.get_config_dict()
    identity = _identity(model)
    wanted = IndexInfo(dtype=number, name=name, storage=storage, pooling=options, passages=split, **identity)
    with truncation_reported(model):
        write_index(
            path,
            items,
            encoding(model, number, options),
            wanted,
            total=total,
            resume=resume,
            overwrite=overwrite,
            piece=piece_for(model),
            shard=shard,
        )


def rows_of(documents: Iterable[Document], model: Encoder, passages: Mapping[str, int] | None) -> Iterable[Document]:
    """Return documents as the rows of an index: themselves, or their passages."""
    splitter = Splitter.of(model, passages)
    return documents if splitter is None else split_documents(documents, splitter)


def import_vectors(
    path: str | os.PathLike[str],
    items: Iterable[tuple[Any, Any]],
    space: Space | None,
    *,
    model: Encoder | None,
    storage: Storage,
    name: str | None,
    total: int | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Store vectors that were made elsewhere; see `Index.from_vectors`."""
    items = with_vectors(items)
    if model is not None:
        check_retriever(model)
        space, identity = model.space, _identity(model)
        items = _checked(items, model)
    elif isinstance(space, Space):
        identity = {"space": space}
    else:
        given = "" if space is None else f", not {shown(space)}"
        raise InputError(
            f"vectors from elsewhere need a space or the model that made them; give one of the two, as "
            f"Space('cosine', 384){given}"
        )
    _check_storage(storage)
    wanted = IndexInfo(name=name, storage=storage, **identity)
    write_index(
        path, items, partial(stack_points, space=space), wanted, total=total, resume=resume, overwrite=overwrite
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What encoding a corpus will take.

    Attributes:
        documents: Documents of the corpus.
        remaining: Documents, or passages of them, that are not encoded yet.
        sample: How many were encoded to measure the speed; 0 where nothing remains.
        documents_per_second: Measured speed, also of passages; 0 where nothing remains.
        vector_bytes: Size of all vectors on the disk; 0 for token sets of which none remains to be encoded.
        text_bytes: Size of all ids, titles, texts and metadata before compression.
        passages: Passages of all documents; None if they stay whole.
        long: How much of the documents the model does not read; None if it has no limit, or no tokenizer that counts.
    """

    documents: int
    remaining: int
    sample: int
    documents_per_second: float
    vector_bytes: int
    text_bytes: int
    passages: int | None = None
    long: LongDocuments | None = None

    @property
    def seconds(self) -> float:
        """Expected time for the remaining documents."""
        return self.remaining / self.documents_per_second if self.remaining else 0.0

    @property
    def rows(self) -> int:
        """Passages, or documents if they stay whole."""
        return self.documents if self.passages is None else self.passages

    def __str__(self) -> str:
        unit = "documents" if self.passages is None else "passages"
        split = "" if self.passages is None else f" in {self.passages:,} passages"
        done = f", {self.rows - self.remaining:,} of them done" if self.remaining < self.rows else ""
        measured = f"{self.documents_per_second:.1f} {unit}/s, measured on {self.sample}"
        time_needed = f"about {time_in_words(self.seconds)} ({measured})" if self.remaining else "nothing to encode"
        sizes = f"{size_in_words(self.vector_bytes)} of vectors and {size_in_words(self.text_bytes)} of text"
        return f"{self.documents:,} documents{split}{done}: {time_needed}, {sizes}"


def estimate(
    documents: Iterable[Document],
    model: Retriever,
    *,
    storage: Storage = "float32",
    dtype: str = "auto",
    pooling: Mapping[str, Any] | None = None,
    passages: bool | Mapping[str, int] | None = None,
    done: int = 0,
    sample: int = 64,
    seed: int = 0,
) -> Estimate:
    """Estimate time and size of encoding a corpus, from a timed encoding of a random sample of it.

    Args:
        documents: The corpus; read once to the end, in bounded memory.
        model: What will encode it.
        storage: How vectors will be stored.
        dtype: What the model will compute in; see `Retriever.encode_documents`.
        pooling: How token vectors will be pooled; as for `Index.build`.
        passages: How documents will be split; as for `Index.build`.
        done: Documents, or passages of them, that an earlier run has encoded.
        sample: Documents to encode, at least 1; more make the estimate better and slower.
        seed: Of the sample.

    Returns:
        The estimate.

    Raises:
        InputError: `sample` is below 1, or pooling or passages do not fit the model.
    """
    pooler = _pooler(pooling, model)
    split = as_passages(passages, model)
    if sample < 1:
        raise InputError(f"a sample needs at least 1 document, not {sample}")
    generator = random.Random(seed)
    chosen: list[str] = []
    count = text_bytes = 0
    survey = Survey.of(model, seed)
    for document in rows_of(survey.passing(documents), model, split):
        text = document.full_text
        fields = (document.id, document.title, document.text, encode_metadata(document))
        text_bytes += sum(len(field.encode(errors="replace")) for field in fields)
        count += 1
        # Reservoir sampling: after every document, each one so far is in the sample with equal chance.
        if len(chosen) < sample:
            chosen.append(text)
        elif (place := generator.randrange(count)) < sample:
            chosen[place] = text
    remaining = max(0, count - done)
    if not remaining:
        chosen = []
    rate, vectors = _measure(chosen, model, dtype, pooler) if chosen else (0.0, float(not model.space.ragged))
    return Estimate(
        documents=survey.documents,
        remaining=remaining,
        sample=len(chosen),
        documents_per_second=rate,
        vector_bytes=int(count * vectors * model.space.width * _BYTES[storage]),
        text_bytes=text_bytes,
        passages=None if split is None else count,
        long=survey.result(),
    )


def _measure(texts: list[str], model: Retriever, dtype: str, pooler: TokenPooling | None) -> tuple[float, float]:
    """Return documents per second, and vectors per document."""
    model.encode_documents(texts[:1], dtype=dtype)  # the first batch also pays for what is loaded lazily
    start = time.perf_counter()
    points = model.encode_documents(texts, dtype=dtype)
    if pooler is not None and isinstance(points, TokenPoints):
        points = pooler.pool_points(points)
    seconds = max(time.perf_counter() - start, 1e-9)
    return len(texts) / seconds, len(points.rows) / len(texts)


def _check_storage(storage: object) -> None:
    if storage not in get_args(Storage):
        raise UnknownNameError("number type of storage", str(storage), get_args(Storage))


def _document_route(model: Encoder | None) -> list[Any]:
    route: Any = getattr(model, "route", None)
    return [] if route is None else list(route("document"))


@contextmanager
def truncation_reported(model: Encoder | None) -> Iterator[None]:
    """Warn of documents that a model reads only in part, if any are encoded meanwhile, and log what it left out."""
    before = getattr(model, "truncated", 0)  # of an encoder that is not ours nothing is known
    shortening = [module for module in _document_route(model) if hasattr(module, "counts")]
    counts = [(module.counts.seen, module.counts.kept) for module in shortening]
    yield
    for module, (seen, kept) in zip(shortening, counts, strict=True):
        new, left = module.counts.seen - seen, module.counts.kept - kept
        logger.info("%s left %s of %s tokens", type(module).__name__, f"{left:,}", f"{new:,}")
    count = getattr(model, "truncated", 0) - before
    if model is not None and count:
        length = model.protocol()["max_length"]["document"]
        logger.warning(
            "%s longer than the %d tokens that the model reads of a document, and the rest of %s is not searched",
            f"{count:,} documents were" if count > 1 else "1 document was",
            length,
            "each" if count > 1 else "it",
        )


def encoding(model: Encoder, dtype: str, pooling: Mapping[str, Any] | None = None) -> Callable[[list[Item]], Points]:
    """Return the function that encodes documents, and makes their token vectors fewer if the index asks for it."""
    pooler = _pooler(pooling, model)

    def encode(batch: list[Item]) -> Points:
        points = model.encode_documents([document.full_text for document, _ in batch], dtype=dtype)
        if pooler is None:
            return points
        before = len(points.rows)
        points = pooler.pool_points(cast("TokenPoints", points))
        logger.info("pooled %d token vectors of %d documents to %d", before, len(points), len(points.rows))
        return points

    return encode


def _pooler(pooling: Mapping[str, Any] | None, model: Encoder) -> TokenPooling | None:
    if pooling is None:
        return None
    if not model.space.ragged:
        raise InputError(
            f"pooling makes the token vectors of a document fewer, and {model.source} gives one vector a document; "
            f"leave pooling out"
        )
    from hyperseek.nn.token_pooling import PoolingConfig, TokenPooling

    PoolingConfig.from_mapping(pooling, source="token pooling")  # which may be no mapping
    pooler = TokenPooling(**pooling)
    if not pooler.applies_to("document"):
        raise InputError(f"an index pools documents, and tasks says {', '.join(pooler.tasks)}; leave tasks out")
    return pooler


def stack_points(batch: Sequence[Item], space: Space) -> Points:
    """Join vectors that were made elsewhere to points.

    Args:
        batch: Documents, at least 1, each with its coordinates; for token spaces with a vector for each of its tokens.
        space: What they are coordinates of.

    Returns:
        The points.

    Raises:
        InputError: Something has another shape, holds no numbers, or is no point of the space; the message names the
            document.
    """
    size, ragged = space.coordinates, space.ragged
    tensors = []
    for document, vector in batch:
        tensor = _tensor(document, vector)
        tensors.append(tensor)
        shape = tuple(tensor.shape)
        if shape[-1:] != (size,) or len(shape) != 1 + ragged:
            wanted = f"(tokens, {size})" if ragged else f"({size},)"
            raise InputError(f"the vector of document {document.id!r} has the shape {shape}, not {wanted}")
    names = [f"the vector of document {document.id!r}" for document, _ in batch]
    if not ragged:
        # A concatenation has the widest dtype of all; a stack wants one.
        return VectorPoints(space.canonical(torch.cat([tensor[None] for tensor in tensors]), names=names))
    lengths = torch.tensor([0, *map(len, tensors)])
    named = [name for name, tensor in zip(names, tensors, strict=True) for _ in range(len(tensor))]
    return TokenPoints(space.canonical(torch.cat(tensors), names=named), lengths.cumsum(0))


def piece_for(model: Encoder) -> int:
    """Return how many documents this model should be given at a time."""
    device = getattr(model, "device", None)
    return PIECE if device is None or device.type == "cpu" else SHARD


def resolve_dtype(dtype: str, model: Encoder) -> str:
    """Return the name of the number type that `dtype` means for this model on this machine."""
    own: Callable[[str], str] | None = getattr(model, "number_type", None)
    return dtype if own is None else own(dtype)  # other encoders decide by themselves


def _identity(model: Encoder) -> dict[str, Any]:
    source = model.source
    if source is not None and os.path.isdir(source):
        source = os.path.abspath(source)  # the index will be opened from other working directories
    return {
        "source": source,
        "fingerprint": model.fingerprint,
        "space": model.space,
        "protocol": model.protocol(),
    }


def _checked(items: Iterable[Item], model: Encoder) -> Iterator[Item]:
    """Pass items on after comparing the first vectors with the model's own."""
    stream = iter(items)
    first = list(islice(stream, _CHECKED))
    if first:
        texts = [document.full_text for document, _ in first]
        try:
            _compare(first, model.encode_documents(texts, dtype="float32"), model)
        except FingerprintError as one_by_one:
            if not model.space.ragged:
                raise
            # Which tokens are pooled together may depend on the format that the vectors were made in, and in bfloat16
            # also on the other texts of the batch.
            try:
                _compare(first, model.encode_documents(texts, dtype="bfloat16"), model, regrouped=True)
            except FingerprintError:
                raise one_by_one from None
    return chain(first, stream)


def _compare(items: Sequence[Item], own: Points, model: Encoder, *, regrouped: bool = False) -> None:
    """Raise FingerprintError where a document's vectors are not the model's own, of which it has one or several.

    With `regrouped`, some may be means of other tokens: they need only be close to the model's on average, in any
    order.
    """
    expected = torch.split(own.rows.cpu(), own.lengths.tolist())
    for (document, vector), mine in zip(items, expected, strict=True):
        given = _tensor(document, vector)
        if given.ndim != 1 + model.space.ragged or given.shape[-1] != model.space.coordinates:
            continue  # refused with a better message where it is stored
        rows = given if model.space.ragged else given[None]
        if not rows.isfinite().all():
            continue  # likewise
        made_by = f"{model.source} (fingerprint {model.fingerprint})"
        stem = f"the vector of document {document.id!r} is not what {made_by} makes of it"
        remedy = "give the model that made the vectors, with the same pooling and maximum length, or none"
        if len(rows) != len(mine):
            raise FingerprintError(f"{stem}: it has {len(rows)} rows, not {len(mine)}; {remedy}")
        if not len(rows):
            continue
        rows, length = model.space.canonical(rows), torch.linalg.vector_norm(mine, dim=1)
        if regrouped:
            difference = torch.cdist(rows.float(), mine.float()).amin(dim=1).mean()[None]
            length = length.mean()[None]
            near = difference <= _TOLERANCE_OF_MEAN * length
        else:
            difference = torch.linalg.vector_norm(rows - mine, dim=1)
            near = difference <= _TOLERANCE * length
        if not near.all():
            worst = int((~near).nonzero()[0])
            raise FingerprintError(
                f"{stem}: they are {float(difference[worst]):.3g} apart, of length {float(length[worst]):.3g}; {remedy}"
            )


def _tensor(document: Document, vector: Any) -> Tensor:
    what = f"the vector of document {document.id!r}"
    return as_numbers(vector, what, otherwise=f"{what} is no row of numbers")
