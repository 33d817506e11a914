"""The vectors that a model makes of texts, as other programs can compare them.

A plain vector is given where comparing it is what the model does: a point of a flat space, or the vector of a chart,
whose inner products rank as distances in a hyperbolic space do. Everything else is refused with the route to use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperseek.models.retriever import Side
from hyperseek.serve._limits import Refused
from hyperseek.serve._shelf import ServedModel
from hyperseek.types import NO_OPTIONS, QueryOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hyperseek.models import Retriever
    from hyperseek.scoring import Points, Scorer

_CHARACTERS = 4  # of a token, about
_MOST_NUMBERS = 1 << 23


def similarity(retriever: Retriever) -> str:
    """Return the name of what compares a model's vectors: `cosine`, `dot`, `euclidean`, or `maxsim` for token vectors.

    Vectors of hyperbolic spaces are compared by `dot`, which ranks as their distance does.
    """
    space = retriever.space
    if space.ragged:
        return "maxsim"
    if space.unit_norm:
        return "cosine"
    return "euclidean" if is_flat(retriever) and not space.plain_product else "dot"


def is_flat(retriever: Retriever) -> bool:
    """Whether a model's stored points are its vectors, not the vectors of a chart."""
    space = retriever.space
    return not space.ragged and space.width == space.dimension


def vector_size(retriever: Retriever) -> int | None:
    """Return how many numbers a model's vectors have; None where it has none for a text, or that is not known."""
    space = retriever.space
    if is_flat(retriever):
        return space.dimension
    return space.dimension + 1 if space.hyperbolic else None


def check_tokens(model: ServedModel, texts: Sequence[str], side: Side) -> None:
    """Refuse texts whose token vectors are more numbers, as far as can be told, than one answer may hold."""
    retriever = model.retriever
    longest = retriever.max_length[side] or _MOST_NUMBERS
    width = retriever.space.dimension
    count = width * sum(min(longest, 1 + len(text) // _CHARACTERS) for text in texts)
    if count > _MOST_NUMBERS:
        message = f"the vectors of all tokens are about {count:,} numbers, and an answer may hold {_MOST_NUMBERS:,}"
        raise Refused(413, f"{message}; send fewer texts")


@dataclass(frozen=True, slots=True)
class Counted:
    """What a model makes of a text, and how many tokens it read.

    Attributes:
        made: What it makes.
        tokens: With the prompt and special tokens.
    """

    made: Any
    tokens: int


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Makes the vectors of texts; for `ServedModel.each`.

    Attributes:
        side: Of the texts.
        dtype: In which documents are encoded.
        tokens: Whether those of tokens are wanted, `(t, d)` for each text, in place of one of the text, `(d,)`.
        dimension, level, options: As in `plain_vectors`.
    """

    side: Side
    dtype: str
    tokens: bool = False
    dimension: int | None = None
    level: int | None = None
    options: QueryOptions = NO_OPTIONS

    def __call__(self, retriever: Retriever, texts: list[str]) -> list[Counted]:
        made = self._of_documents(retriever, texts) if self.side == "document" else self._of_queries(retriever, texts)
        return list(map(Counted, made, token_counts(retriever, texts, self.side)))

    def _of_documents(self, retriever: Retriever, texts: list[str]) -> Iterable[NDArray[np.float32]]:
        points = retriever.encode_documents(texts, dtype=self.dtype)
        if not self.tokens:
            return _document_vectors(points, retriever, self.dimension, self.level)
        return [points[place : place + 1].rows.numpy() for place in range(len(points))]

    def _of_queries(self, retriever: Retriever, texts: list[str]) -> Iterable[NDArray[np.float32]]:
        # A batch at a time, since some models make millions of numbers of a query.
        for scorer in retriever.compile_batches(texts, self.options):
            if not self.tokens:
                yield from _query_vectors(scorer, retriever, self.dimension, self.level)
            elif (found := scorer.token_vectors()) is not None:
                for vectors, weights in zip(*found, strict=True):
                    yield vectors[weights > 0].float().cpu().numpy()


def token_counts(retriever: Retriever, texts: list[str], side: Side) -> list[int]:
    """Return how many tokens the model reads of each text, with its prompt and special tokens."""
    features = retriever.tokenize(texts, side)
    mask, ids = features.get("attention_mask"), features.get("input_ids")
    if mask is not None:
        counts: list[int] = mask.sum(dim=1).tolist()
        return counts
    if ids is not None and "offsets" in features:  # static embeddings: all tokens in a row
        starts = features["offsets"].tolist()
        return [end - start for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    return [0] * len(texts)


async def plain_vectors(
    model: ServedModel,
    texts: Sequence[str],
    side: Side,
    *,
    dimension: int | None = None,
    level: int | None = None,
    options: QueryOptions = NO_OPTIONS,
) -> tuple[NDArray[np.float32], int]:
    """Return a vector for each text.

    Args:
        model: The model.
        texts: At least one.
        side: `"query"` or `"document"`.
        dimension: To which the vectors are cut, where the model was trained for it; None for all numbers.
        level: Of a model with levels; None for the narrowest.
        options: Of queries.

    Returns:
        `(N, d)`, and how many tokens the model read.

    Raises:
        InputError: The model has no such vectors; the message names the route to use.
    """
    retriever = model.retriever
    space = retriever.space
    if space.ragged:
        raise Refused(
            400,
            "this model has a vector for each token and none for a text; ask /v1/multi-vector or /embed_all",
            "NoVectors",
        )
    if level is not None and not 1 <= level <= space.levels:
        raise Refused(400, f"level {level} is not one of this model's, which are 1 to {space.levels}", field="level")
    if dimension is not None:
        dimension = _checked_dimension(retriever, side, dimension)
    found = await model.each(_Vectors(side, model.dtype, dimension=dimension, level=level, options=options), texts)
    return np.stack([one.made for one in found]), sum(one.tokens for one in found)


def _checked_dimension(retriever: Retriever, side: Side, dimension: int) -> int | None:
    """Return a dimension to cut vectors to, None for no cut; Refused where the model was not trained for it."""
    from hyperseek.models.modules import shorter_dimensions

    whole = vector_size(retriever)
    if dimension == whole:
        return None
    known = shorter_dimensions(retriever.route(side)) if is_flat(retriever) else ()
    if dimension in known:
        return dimension
    if not known:
        allowed = f"only {whole}, since its first numbers alone were not trained to be a vector"
    elif len(known) + 1 == whole:
        allowed = f"1 to {whole}"
    else:
        allowed = ", ".join(map(str, (*known, whole)))
    raise Refused(400, f"this model gives no vectors of {dimension} dimensions; allowed: {allowed}", field="dimensions")


def _document_vectors(
    points: Points, retriever: Retriever, dimension: int | None, level: int | None
) -> NDArray[np.float32]:
    space, rows = retriever.space, points.rows
    if dimension is not None:
        rows = space.shorten(rows, dimension)
    elif not is_flat(retriever):
        rows = space.chart("inner_product", **_chart(space.levels, level)).lift_documents(points)
    return np.asarray(rows.float().cpu().numpy())


def _query_vectors(
    scorer: Scorer, retriever: Retriever, dimension: int | None, level: int | None
) -> NDArray[np.float32]:
    space = scorer.space
    if not is_flat(retriever):
        rows = scorer.at(level=level).lift(space.chart("inner_product", **_chart(space.levels, level)))
    else:
        if dimension is not None and scorer.points:
            scorer = scorer.shortened(dimension)
        rows = scorer.linear()
        if rows is None and space.plain_product:
            rows = scorer.lift(space.chart("inner_product"))
        if rows is not None and scorer.points:
            rows = scorer.space.canonical(rows)
    if rows is None:
        raise Refused(
            400,
            "the queries of this model are functions, not vectors: rank texts with /rerank, or documents of an index "
            "with /search. Documents have vectors: input_type 'document'",
            "NoVectors",
            field="input_type",
        )
    if dimension is not None and rows.shape[1] != dimension:
        raise Refused(400, "the queries of this model cannot be cut to fewer dimensions", field="dimensions")
    return np.asarray(rows.detach().float().cpu().numpy())


def _chart(levels: int, level: int | None) -> dict[str, Any]:
    return {"level": level} if levels > 1 and level is not None else {}


async def token_vectors(model: ServedModel, texts: Sequence[str], side: Side) -> tuple[list[NDArray[np.float32]], int]:
    """Return the token vectors of each text, of a model of late interaction.

    Args:
        model: The model.
        texts: At least one.
        side: `"query"` or `"document"`.

    Returns:
        `(t, d)` for each text, and how many tokens the model read. MaxSim of a query's and a document's is the score.
    """
    found = await model.each(_Vectors(side, model.dtype, tokens=True), texts)
    return [one.made for one in found], sum(one.tokens for one in found)
