"""How long and how large: what to know before a corpus is encoded."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperseek._display import size_in_words, time_in_words
from hyperseek.errors import InputError
from hyperseek.store.info import Storage
from hyperseek.store.rows import encode_metadata
from hyperseek.types import Document

if TYPE_CHECKING:
    from hyperseek.models import Retriever

_BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What encoding a corpus will take.

    Attributes:
        documents: Documents of the corpus.
        remaining: Those not encoded yet.
        sample: How many were encoded to measure the speed; 0 where nothing remains.
        documents_per_second: Measured speed; 0 where nothing remains.
        vector_bytes: Size of all vectors on the disk; 0 for token sets of which none remains to be encoded.
        text_bytes: Size of all ids, titles, texts and metadata before compression.
    """

    documents: int
    remaining: int
    sample: int
    documents_per_second: float
    vector_bytes: int
    text_bytes: int

    @property
    def seconds(self) -> float:
        """Expected time for the remaining documents."""
        return self.remaining / self.documents_per_second if self.remaining else 0.0

    def __str__(self) -> str:
        done = f", {self.documents - self.remaining:,} of them done" if self.remaining < self.documents else ""
        measured = f"{self.documents_per_second:.1f} documents/s, measured on {self.sample}"
        time_needed = f"about {time_in_words(self.seconds)} ({measured})" if self.remaining else "nothing to encode"
        sizes = f"{size_in_words(self.vector_bytes)} of vectors and {size_in_words(self.text_bytes)} of text"
        return f"{self.documents:,} documents{done}: {time_needed}, {sizes}"


def estimate(
    documents: Iterable[Document],
    model: Retriever,
    *,
    storage: Storage = "float32",
    dtype: str = "auto",
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
        done: Documents that an earlier run has encoded.
        sample: Documents to encode, at least 1; more make the estimate better and slower.
        seed: Of the sample.

    Returns:
        The estimate.

    Raises:
        InputError: `sample` is below 1.
    """
    if sample < 1:
        raise InputError(f"a sample needs at least 1 document, not {sample}")
    generator = random.Random(seed)
    chosen: list[str] = []
    count = text_bytes = 0
    for document in documents:
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
    rate, vectors = _measure(chosen, model, dtype) if chosen else (0.0, float(not model.space.ragged))
    return Estimate(
        documents=count,
        remaining=remaining,
        sample=len(chosen),
        documents_per_second=rate,
        vector_bytes=int(count * vectors * model.space.width * _BYTES[storage]),
        text_bytes=text_bytes,
    )


def _measure(texts: list[str], model: Retriever, dtype: str) -> tuple[float, float]:
    """Return documents a second, and vectors a document."""
    model.encode_documents(texts[:1], dtype=dtype)  # the first batch also pays for what is loaded lazily
    start = time.perf_counter()
    points = model.encode_documents(texts, dtype=dtype)
    seconds = max(time.perf_counter() - start, 1e-9)
    return len(texts) / seconds, len(points.rows) / len(texts)
