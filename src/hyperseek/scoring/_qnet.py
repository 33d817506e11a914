"""q-nets: from generated weights to a small network, and the scorer whose queries are such networks.

A converter says which matrices and vectors a hyper-head must generate for each query, and turns them into a function of
documents. Ours is the paper's stack of dense blocks ("Hypencoder: Hypernetworks for Information Retrieval", arXiv
2502.05364, section 3); any class with the members of `QNetConverter` can be registered and chosen by configuration.

Shapes: `Q` queries, `N` documents shared by all, `n` documents of each query's own, `d` dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperseek._machine import run_on_cores
from hyperseek._registry import Registry
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.scoring._points import Points, own_vectors, vectors_of
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space

# Elements of one block of all queries' hidden states where they are computed together: 64 MiB of float32.
_BLOCK_ELEMENTS = 1 << 24
# Elements of one block of hidden states in `scan`: 1 MiB of float32, about what a core has to itself.
_SCAN_ELEMENTS = 1 << 18
_LAYER_NORM_EPSILON = 1e-5

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
}
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "sigmoid": torch.sigmoid_,
    "gelu": torch.ops.aten.gelu_,
    "leaky_relu": torch.ops.aten.leaky_relu_,
}


class QNetScorer(Scorer):
    """One q-net per query, and optionally the similarity that it started from: `score = <base, x> + qnet(x)`.

    Args:
        space: Must be of kind `"dot"`; its points are the input of the q-net.
        matrices: Generated matrices, each `(Q, in, out)`.
        vectors: Generated vectors, each `(Q, size, 1)`.
        converter: Name of a registered converter.
        converter_kwargs: Its arguments.
        base: `(Q, d)` query vectors whose inner product is added to the q-net's score, or None.
        is_training: Whether dropout applies.

    Raises:
        InputError: The space is not `"dot"`, or a tensor's shape is not the one that the converter requires.
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
        if not space.plain_product or space.unit_norm:
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
        documents = vectors_of(points).float()
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

    def score_own(self, documents: Tensor | Points) -> Tensor:
        """Return `(Q, n)` scores of each query's own documents: `(Q, n, d)`, or `Q * n` points."""
        documents = own_vectors(documents, len(self)).float()
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

    def moved_towards(self, documents: Points, weights: Tensor) -> QNetScorer:
        """Add the similarity to the documents, as long as the q-net's own gradient at them.

        Near a document a q-net scores as the inner product with its gradient there, and this is the point that is
        moved. Without hidden layers the gradient is the query vector everywhere, and the queries are ranked as if that
        were moved.
        """
        own = own_vectors(documents, len(self)).float()
        with torch.inference_mode(False), torch.enable_grad():
            # Tensors of inference mode take part in no gradient, and their clones do.
            places = own.clone().requires_grad_()
            scored = self._map(torch.clone).score_own(places)
            (gradients,) = torch.autograd.grad(scored.sum(), places)
        weights = weights.to(own.device)
        total = weights.sum(dim=1, keepdim=True)
        lengths = torch.linalg.vector_norm(gradients, dim=2)
        length = (weights * lengths).sum(dim=1, keepdim=True) / torch.where(total > 0, total, 1)
        towards = torch.nn.functional.normalize(torch.einsum("qn,qnd->qd", weights, own), dim=1)
        added = total / (1 - total) * length * towards
        return self._with({**self.tensors(), "base": added if self.base is None else self.base.float() + added})

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
        """Score blocks of documents with all queries at once, for GPUs and converters without `scan`."""
        widest = max(max(shape) for shape in (*self._converter.weight_shapes, *self._converter.bias_shapes))
        block = max(1, _BLOCK_ELEMENTS // (max(1, len(self)) * max(widest, documents.shape[1])))
        parts = [self.score_own(part.expand(len(self), -1, -1)) for part in torch.split(documents, block)]
        return torch.cat(parts, dim=1)


class QNetConverter(Protocol):
    """The members of a q-net architecture.

    Attributes:
        weight_shapes: `(in, out)` of every matrix to generate.
        bias_shapes: `(size, 1)` of every vector to generate.
    """

    weight_shapes: list[tuple[int, int]]
    bias_shapes: list[tuple[int, int]]

    def __call__(
        self, matrices: Sequence[Tensor], vectors: Sequence[Tensor], is_training: bool
    ) -> Callable[[Tensor], Tensor]:
        """Make the q-nets of `Q` queries.

        Args:
            matrices: One `(Q, in, out)` for each of `weight_shapes`.
            vectors: One `(Q, size, 1)` for each of `bias_shapes`.
            is_training: Whether dropout applies.

        Returns:
            A function from documents `(Q, n, d)` to scores `(Q, n, 1)`.
        """
        ...


CONVERTERS: Registry[Callable[..., QNetConverter]] = Registry(
    "q-net converter",
    "hyperseek.qnet_converters",
    {"repeated_dense_block": "hyperseek.scoring._qnet:RepeatedDenseBlockConverter"},
)
"""The q-net architectures; `register_qnet_converter` and entry points add more."""


def register_qnet_converter(name: str, converter: Callable[..., QNetConverter] | None = None) -> Any:
    """Register a `QNetConverter` class under a name that configurations can use.

    Args:
        name: Its name in configurations, as in `converter: NAME`.
        converter: The class; None to use the result as a decorator.

    Returns:
        The class, or a decorator.

    Raises:
        InputError: The name is taken.
    """
    return CONVERTERS.register(name, converter)


def build_converter(name: str, arguments: Mapping[str, Any]) -> QNetConverter:
    """Build a registered converter.

    Args:
        name: A registered name.
        arguments: Keyword arguments of its constructor.

    Returns:
        The converter.

    Raises:
        UnknownNameError: No converter has that name.
        InputError: The constructor refuses the arguments.
    """
    converter = CONVERTERS[name]
    try:
        return converter(**arguments)
    except TypeError as error:
        raise InputError(f"the q-net converter {name!r} does not take these arguments: {error}") from None


class RepeatedDenseBlockConverter:
    """Hypencoder's q-net: dense blocks, then one linear layer without bias.

    A hidden block computes `y = act(x W + b)`, layer-normalises it (no affine parameters), and adds `x`; the last
    hidden block adds nothing unless `do_residual_on_last`. With `vector_dimensions = [d, 1]` there is no hidden
    block and the score is an inner product.

    Args:
        vector_dimensions: `[d, hidden, ..., 1]`: document vectors of size `d`, any hidden sizes, one score.
        activation_type: `relu`, `tanh`, `sigmoid`, `gelu` (exact) or `leaky_relu` (slope 0.01).
        do_dropout: Whether to drop inputs of hidden blocks while training; the residual is not dropped.
        dropout_prob: Probability of dropping, in [0, 1).
        do_layer_norm: Whether hidden blocks normalise.
        do_residual: Whether hidden blocks add their input; needs equal sizes.
        do_residual_on_last: Whether the last hidden block does too; None means as `do_residual`.
        layer_norm_before_residual: Whether to normalise before adding the input, or after.

    Raises:
        InputError: A value is out of range, or a residual joins unequal sizes.
    """

    def __init__(
        self,
        vector_dimensions: Sequence[int],
        activation_type: Literal["relu", "tanh", "sigmoid", "gelu", "leaky_relu"] = "relu",
        do_dropout: bool = False,
        dropout_prob: float = 0.1,
        do_layer_norm: bool = True,
        do_residual: bool = True,
        do_residual_on_last: bool | None = False,
        layer_norm_before_residual: bool = True,
    ) -> None:
        sizes = [int(size) for size in vector_dimensions]
        if len(sizes) < 2 or sizes[-1] != 1 or min(sizes) < 1:
            raise InputError(f"vector_dimensions must be [d, hidden, ..., 1], all positive, not {sizes}")
        if activation_type not in _ACTIVATIONS:
            raise UnknownNameError("activation", activation_type, _ACTIVATIONS)
        if not 0 <= dropout_prob < 1:
            raise InputError(f"dropout_prob must be in [0, 1), not {dropout_prob}")
        if do_residual_on_last is None:
            do_residual_on_last = do_residual
        if do_residual_on_last and not do_residual:
            raise InputError("do_residual_on_last=True needs do_residual=True")
        hidden = len(sizes) - 2
        self.residuals = [do_residual and (layer < hidden - 1 or bool(do_residual_on_last)) for layer in range(hidden)]
        for layer, residual in enumerate(self.residuals):
            if residual and sizes[layer] != sizes[layer + 1]:
                raise InputError(
                    f"hidden block {layer} maps {sizes[layer]} to {sizes[layer + 1]} dimensions, so its input "
                    f"cannot be added to its output; make the sizes equal or set do_residual=False"
                )
        self.sizes = sizes
        self.activation_type = activation_type
        self.dropout = dropout_prob if do_dropout else 0.0
        self.do_layer_norm = do_layer_norm
        self.layer_norm_before_residual = layer_norm_before_residual
        self.weight_shapes = list(pairwise(sizes))
        self.bias_shapes = [(size, 1) for size in sizes[1:-1]]

    def __call__(
        self, matrices: Sequence[Tensor], vectors: Sequence[Tensor], is_training: bool
    ) -> Callable[[Tensor], Tensor]:
        """Return the differentiable q-nets; see `QNetConverter.__call__`."""
        activation = _ACTIVATIONS[self.activation_type]

        def q_net(documents: Tensor) -> Tensor:
            state = documents
            for layer, (matrix, vector) in enumerate(zip(matrices[:-1], vectors, strict=True)):
                dropped = F.dropout(state, self.dropout, training=is_training)
                output = activation(torch.baddbmm(vector.mT, dropped, matrix))
                state = self._normalise_and_add(output, state if self.residuals[layer] else None)
            return torch.bmm(state, matrices[-1])

        return q_net

    def _normalise_and_add(self, output: Tensor, residual: Tensor | None) -> Tensor:
        if self.do_layer_norm and self.layer_norm_before_residual:
            output = F.layer_norm(output, output.shape[-1:], eps=_LAYER_NORM_EPSILON)
        if residual is not None:
            output = output + residual
        if self.do_layer_norm and not self.layer_norm_before_residual:
            output = F.layer_norm(output, output.shape[-1:], eps=_LAYER_NORM_EPSILON)
        return output

    def scan(self, matrices: Sequence[Tensor], vectors: Sequence[Tensor], documents: Tensor) -> Tensor:
        """Score shared documents with every query, without gradients and with little memory.

        Each core takes blocks of documents, and of each block one query after the other, so that a layer is a single
        plain matrix product whose result stays in the core's cache; all other work is done in place.

        Args:
            matrices: One `(Q, in, out)` for each of `weight_shapes`.
            vectors: One `(Q, size, 1)` for each of `bias_shapes`.
            documents: `(N, d)` float32.

        Returns:
            `(Q, N)` float32.
        """
        count = documents.shape[0]
        scores = documents.new_empty(matrices[0].shape[0], count)
        block = max(1, _SCAN_ELEMENTS // max(self.sizes))
        starts = iter(range(0, count, block))  # shared: every call of `work` takes the next one

        def work() -> None:
            buffers = [documents.new_empty(min(block, count) * max(1, *self.sizes[1:])) for _ in range(2)]
            for start in starts:
                part = documents[start : start + block]
                for query, row in enumerate(scores[:, start : start + block]):
                    own = [matrix[query] for matrix in matrices]
                    state = self._last_state(part, own, [vector[query].mT for vector in vectors], buffers)
                    torch.mv(state, own[-1][:, 0], out=row)

        run_on_cores(work, at_most=math.ceil(count / block))
        return scores

    def _last_state(
        self, documents: Tensor, matrices: Sequence[Tensor], vectors: Sequence[Tensor], buffers: Sequence[Tensor]
    ) -> Tensor:
        """Return what one query's last hidden layer makes of documents, in one of the buffers."""
        state = documents
        for layer, vector in enumerate(vectors):
            size = self.sizes[layer + 1]
            output = buffers[layer % 2][: len(state) * size].view(-1, size)
            torch.addmm(vector, state, matrices[layer], out=output)
            _IN_PLACE[self.activation_type](output)
            self._normalise_and_add_(output, state if self.residuals[layer] else None)
            state = output
        return state

    def _normalise_and_add_(self, output: Tensor, residual: Tensor | None) -> None:
        if residual is not None and not (self.do_layer_norm and self.layer_norm_before_residual):
            output += residual
            residual = None
        if self.do_layer_norm:
            _layer_norm_(output, residual)


def _layer_norm_(values: Tensor, residual: Tensor | None) -> None:
    """Layer-normalise rows in place and add the residual, if any.

    Five passes over values that are in the cache anyway: measured at 384 dimensions they take a third of the time of
    torch's fused kernel and an addition, and the sum of squares is taken of centred values, so no digits are lost.
    """
    values -= values.mean(dim=1, keepdim=True)
    lengths = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    scale = lengths.square_().div_(values.shape[1]).add_(_LAYER_NORM_EPSILON).rsqrt_()
    if residual is None:
        values *= scale
    else:
        torch.addcmul(residual, values, scale, out=values)
