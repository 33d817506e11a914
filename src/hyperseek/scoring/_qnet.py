"""The scorer of Hypencoder: a query is a small network of its own.

Shapes: `Q` queries, `N` documents, `n` documents of each query's own, `d` dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from hyperseek._errors import InputError
from hyperseek.scoring._points import Points
from hyperseek.scoring._qnet_converter import build_converter
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space

# Elements of one block of all queries' hidden states where they are computed together: 64 MiB of float32.
_BLOCK_ELEMENTS = 1 << 24


class QNetScorer(Scorer):
    """One q-net a query, and optionally the similarity it was started from: `score = <base, x> + qnet(x)`.

    Args:
        space: Must be of kind `"dot"`; points are what the q-net reads.
        matrices: Generated matrices, each `(Q, in, out)`.
        vectors: Generated vectors, each `(Q, size, 1)`.
        converter: Name of a registered converter.
        converter_kwargs: Its arguments.
        base: `(Q, d)` query vectors whose inner product is added to the q-net's score, or None.
        is_training: Whether dropout applies.

    Raises:
        InputError: The space is not `"dot"` or a tensor's shape is not what the converter asks for.
    """

    kind = "qnet"

    def __init__(
        self,
        space: Space,
        matrices: Sequence[Tensor],
        vectors: Sequence[Tensor],
        *,
        converter: str = "repeated_dense_block",
        converter_kwargs: Mapping[str, Any],
        base: Tensor | None = None,
        is_training: bool = False,
    ) -> None:
        if space.kind != "dot":
            raise InputError(f"q-nets score points of a 'dot' space, not {space.kind!r}; normalise the points instead")
        self.space = space
        self.matrices = list(matrices)
        self.vectors = list(vectors)
        self.converter = converter
        self.converter_kwargs = dict(converter_kwargs)
        self.base = base
        self.is_training = is_training
        self._converter = build_converter(converter, converter_kwargs)
        wanted = [*self._converter.weight_shapes, *self._converter.bias_shapes]
        given = [tuple(tensor.shape[1:]) for tensor in (*self.matrices, *self.vectors)]
        if given != [tuple(shape) for shape in wanted]:
            raise InputError(f"the q-net converter {converter!r} asks for shapes {wanted}, but was given {given}")
        if base is not None:
            space.check(base)

    def __len__(self) -> int:
        return self.matrices[0].shape[0]

    def score(self, points: Points) -> Tensor:
        """Return `(Q, N)` scores; exact, differentiable when gradients are enabled, in blocks when they are not."""
        documents = points.vectors.float()
        self.space.check(documents)
        if torch.is_grad_enabled():
            return self.score_own(documents.expand(len(self), -1, -1))
        scan = getattr(self._converter, "scan", None)
        if scan is None or self.is_training or documents.device.type != "cpu":
            return self._score_together(documents)
        scores: Tensor = scan(self.matrices, self.vectors, documents)
        if self.base is not None:
            scores.addmm_(self.base.float(), documents.T)
        return scores

    def score_own(self, documents: Tensor) -> Tensor:
        """Return `(Q, n)` scores of each query's own `(Q, n, d)` documents."""
        documents = documents.float()
        scores = self._converter(self.matrices, self.vectors, self.is_training)(documents)[..., 0]
        if self.base is not None:
            scores = scores + torch.einsum("qd,qnd->qn", self.base.float(), documents)
        return scores

    def linear(self) -> Tensor | None:
        """Return `(Q, d)` vectors if the q-net has no hidden layer (depth 0), else None."""
        if self.converter != "repeated_dense_block" or len(self.matrices) != 1:
            return None
        vectors = self.matrices[0][..., 0]
        return vectors if self.base is None else vectors + self.base

    def tensors(self) -> dict[str, Tensor]:
        """Return `matrix.I`, `vector.I` and, if there is one, `base`."""
        named = {f"matrix.{index}": tensor for index, tensor in enumerate(self.matrices)}
        named |= {f"vector.{index}": tensor for index, tensor in enumerate(self.vectors)}
        return named if self.base is None else {**named, "base": self.base}

    def config(self) -> dict[str, Any]:
        """Return the space and the converter."""
        return {
            "space": self.space.to_json(),
            "converter": self.converter,
            "converter_kwargs": self.converter_kwargs,
            "is_training": self.is_training,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from what `tensors` and `config` returned."""
        counts = {kind: sum(name.startswith(f"{kind}.") for name in tensors) for kind in ("matrix", "vector")}
        return cls(
            Space.from_json(config["space"]),
            [tensors[f"matrix.{index}"] for index in range(counts["matrix"])],
            [tensors[f"vector.{index}"] for index in range(counts["vector"])],
            converter=config["converter"],
            converter_kwargs=config["converter_kwargs"],
            base=tensors.get("base"),
            is_training=config["is_training"],
        )

    def _score_together(self, documents: Tensor) -> Tensor:
        """Score blocks of documents with all queries at once: what a GPU and converters without `scan` want."""
        widest = max(max(shape) for shape in (*self._converter.weight_shapes, *self._converter.bias_shapes))
        block = max(1, _BLOCK_ELEMENTS // (max(1, len(self)) * max(widest, documents.shape[1])))
        parts = [self.score_own(part.expand(len(self), -1, -1)) for part in torch.split(documents, block)]
        return torch.cat(parts, dim=1)
