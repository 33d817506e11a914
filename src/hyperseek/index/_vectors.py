"""Queries that are vectors of the caller's, in the coordinates of an index' space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek._errors import InputError, brief
from hyperseek.scoring import LinearScorer, MaxSimScorer, Scorer, Space

Vectors: TypeAlias = npt.NDArray[Any] | Tensor
"""Coordinates of one query, `(d,)`, or of many, `(Q, d)`; of token spaces `(t, d)` and `(Q, t, d)`."""


def compiled_queries(queries: Any, space: Space) -> tuple[Sequence[str] | Scorer, bool]:
    """Return queries as an index searches for them: texts as they are, vectors compiled.

    Args:
        queries: One text, many texts, a scorer, or vectors: an array, a tensor, or a list of numbers or of vectors.
        space: Of the index.

    Returns:
        Texts or a scorer, and whether one query was meant, which has one list of hits.

    Raises:
        InputError: Vectors have another width than the space's coordinates, hold no numbers, or larger ones than
            float32 does, or are no points of the space.
    """
    if isinstance(queries, str):
        return [queries], True
    if isinstance(queries, Scorer):
        return queries, False
    if isinstance(queries, np.ndarray) and queries.dtype.kind in "UO" and queries.ndim <= 1:
        return queries.tolist(), False  # a column of texts
    if not _are_vectors(queries, space.coordinates):
        return queries, False  # texts, or nothing that is known
    vectors = _tensor(queries)
    own = 1 + (space.kind == "tokens")  # axes of one query
    if vectors.ndim not in (own, own + 1) or vectors.shape[-1] != space.coordinates:
        one = f"({space.coordinates},)" if own == 1 else f"(tokens, {space.coordinates})"
        raise InputError(
            f"the queries are vectors of the shape {tuple(vectors.shape)}, and the index has points of "
            f"{space.coordinates} coordinates ({space}): give {one} for one query, one axis more for many"
        )
    single = vectors.ndim == own
    vectors = vectors[None] if single else vectors
    names = [f"query {row}" for row in range(len(vectors)) for _ in range(1 if own == 1 else vectors.shape[1])]
    points = space.canonical(vectors.flatten(0, -2), names=names).float()
    finite = points.isfinite().all(dim=-1)
    if not finite.all():  # the caller's were
        raise InputError(
            f"{names[int((~finite).nonzero()[0])]} has numbers that float32 cannot hold; give smaller ones"
        )
    if own == 1:
        return LinearScorer(space, points), single
    return MaxSimScorer(space, points.view(vectors.shape), torch.ones(vectors.shape[:2])), single


def _are_vectors(queries: Any, coordinates: int) -> bool:
    if isinstance(queries, Tensor | np.ndarray):
        return queries.ndim > 0
    if not isinstance(queries, list | tuple) or not queries:
        return False
    first = queries[0]
    if isinstance(first, list | tuple) and first:
        first = first[0][0] if isinstance(first[0], list | tuple) and first[0] else first[0]
    elif isinstance(first, np.number | int | float):
        # A few numbers may be meant to be texts, or counts; as many as a point has are a point.
        return len(queries) == coordinates and not isinstance(first, bool)
    return isinstance(first, Tensor | np.ndarray | np.number | int | float)


def _tensor(queries: Any) -> Tensor:
    otherwise = "the queries are no vectors of one length"
    if isinstance(queries, list | tuple) and isinstance(queries[0], Tensor):
        try:
            queries = torch.stack([query.detach().cpu() for query in queries])
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise InputError(f"{otherwise}: {brief(error)}") from error
    return as_numbers(queries, "vectors of queries", otherwise=otherwise)


def as_numbers(values: Any, what: str, *, otherwise: str) -> Tensor:
    """Return coordinates as float32, or as float64 if they are: what hyperbolic ones lose is lost for good.

    Args:
        values: A tensor, or what numpy makes an array of.
        what: They are, for messages.
        otherwise: What is said of values that are no array.

    Returns:
        Them, on the CPU.

    Raises:
        InputError: They are no array, or not of real numbers.
    """
    if isinstance(values, Tensor):
        numbers = values.detach().cpu()
    else:
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{otherwise}: {brief(error)}") from error
        if array.dtype.kind not in "fiub":
            raise InputError(f"{what} must be numbers, not {array.dtype}")
        numbers = torch.tensor(array.astype(np.float64 if array.dtype.itemsize >= 8 else np.float32))
    if numbers.is_complex():
        raise InputError(f"{what} must be real numbers, not {numbers.dtype}")
    return numbers if numbers.dtype == torch.float64 else numbers.float()
