"""The scorer of queries under a task card whose head changes documents, too.

`score = <q, h(x)>`, with `h(x)` normalised where the space is one of unit vectors. Stored points stay as they are: the
head is applied to those that are scored, and candidates are found in the index of the unchanged ones.

Shapes: `Q` queries, `N` documents, `d` numbers of a stored point, `e` of a changed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from hyperseek.errors import InputError
from hyperseek.scoring._geometries import Chart
from hyperseek.scoring._points import Points, own_vectors, vectors_of
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space


@dataclass(frozen=True, eq=False)
class DocumentHead:
    """What a card does to documents: an affine map, and perhaps layer normalisation after it.

    Attributes:
        matrix: `(d, e)`.
        bias: `(e,)`.
        scale: `(e,)`: layer normalisation follows, with this scale; None for none.
        shift: `(e,)`, its shift.
    """

    matrix: Tensor
    bias: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return changed vectors `(..., e)` of `(..., d)`."""
        y = x @ self.matrix + self.bias
        if self.scale is None or self.shift is None:
            return y
        return nn.functional.layer_norm(y, y.shape[-1:]) * self.scale + self.shift

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The numbers as lists."""
        return {name: tensor.tolist() for name, tensor in self._tensors().items()}

    def to(self, device: str | torch.device) -> DocumentHead:
        """Return the head on a device."""
        return DocumentHead(**{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def detach(self) -> DocumentHead:
        """Return the head cut from the graph that computed it."""
        return DocumentHead(**{name: tensor.detach() for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in given.items() if tensor is not None}


class CardScorer(Scorer):
    """Queries as changed points, compared with changed documents.

    Engines find candidates by the head's linear part: the norms of changed documents are left out.

    Args:
        space: That of stored points, whose similarity is a product.
        queries: `(Q, e)`, changed, and of norm 1 where points have it.
        head: What changes documents.

    Raises:
        InputError: The similarity is not a product, or shapes do not fit.
    """

    kind = "card"

    def __init__(self, space: Space, queries: Tensor, head: DocumentHead) -> None:
        if not space.plain_product:
            raise InputError(f"heads change documents of spaces of products alone, not of a {space.kind!r} space")
        if tuple(head.matrix.shape) != (space.dimension, queries.shape[-1]) or queries.ndim != 2:
            raise InputError(
                f"queries of shape {tuple(queries.shape)} do not fit documents of {space.dimension} numbers and a "
                f"head of shape {tuple(head.matrix.shape)}"
            )
        self.space = space
        self.queries = queries
        self.head = head

    def score(self, points: Points) -> Tensor:
        """Return `(Q, N)` products with changed documents."""
        return self.queries.float() @ self._changed(vectors_of(points)).T

    def score_own(self, documents: Tensor | Points) -> Tensor:
        """Return `(Q, n)` products of each query with its own documents: `(Q, n, d)`, or `Q * n` points."""
        changed = self._changed(own_vectors(documents, len(self)))
        return torch.einsum("qe,qne->qn", self.queries.float(), changed)

    def _changed(self, vectors: Tensor) -> Tensor:
        self.space.check(vectors)
        changed = self.head(vectors.float())
        return nn.functional.normalize(changed, dim=-1) if self.space.unit_norm else changed

    def linear(self) -> None:
        """Return None: the norm of a changed document is not linear in the document."""

    def lift(self, chart: Chart) -> Tensor | None:
        """Return `(Q, e)` queries of the linear part; None with layer normalisation."""
        if self.head.scale is not None or chart.lift_weights is None:
            return None
        return chart.lift_weights(self.queries.float() @ self.head.matrix.T)

    def moved_towards(self, documents: Points, weights: Tensor) -> Self:
        """Return the queries moved towards changed documents, as `Space.moved` does."""
        changed = self._changed(own_vectors(documents, len(self)))
        space = Space(self.space.kind, changed.shape[-1])
        return self._with({"queries": space.moved(self.queries, changed, weights)})

    def tensors(self) -> dict[str, Tensor]:
        """Return `queries`."""
        return {"queries": self.queries}

    def config(self) -> dict[str, Any]:
        """Return the space and the numbers of the head."""
        return {"space": self.space.to_json(), "head": self.head.plain}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from `queries`, the space and the head."""
        queries = tensors["queries"]
        head = {name: torch.tensor(numbers, device=queries.device) for name, numbers in config["head"].items()}
        return cls(Space.from_json(config["space"]), queries, DocumentHead(**head))

    def detach(self) -> Self:
        """Return the scorer cut from the graph that computed it, its head included."""
        return type(self)(self.space, self.queries.detach(), self.head.detach()).with_options(self.options)

    def _with(self, tensors: Mapping[str, Tensor]) -> Self:
        queries = tensors["queries"]
        head = self.head if queries.device == self.queries.device else self.head.to(queries.device)
        return type(self)(self.space, queries, head).with_options(self.options)
