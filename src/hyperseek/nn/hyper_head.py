"""The hyper-head of Hypencoder: it maps a query's token states to the matrices and vectors of its q-net.

"Hypencoder: Hypernetworks for Information Retrieval", arXiv 2502.05364, section 3.2. Parameter names are the
original's, so its checkpoints load unchanged.

Shapes: `Q` queries, `T` tokens, `m` trunk width; a generated matrix is `(a, b)`: `a` inputs, `b` outputs.

For each matrix, `b` learned queries attend over the tokens (divisor `sqrt(b)`, not the key width: the trained
checkpoints depend on it). Each attended value passes through a ReLU, a layer norm without parameters and one linear
map, and is added to a base row. A vector is generated in the same way, with one learned query.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperseek.errors import UnknownNameError

_EPSILON = 1e-5
_INITIALISATIONS = ("original", "scaled", "zero_last")
Initialisation = Literal["original", "scaled", "zero_last"]


class HyperHead(nn.Module):
    """Generate the parameters of one q-net for each query.

    Args:
        token_size: Trunk width `m`.
        weight_shapes: `(a, b)` of each matrix to generate, in the order of the layers.
        bias_shapes: `(size, 1)` of each vector to generate.
        initialisation: `"original"` draws as the original did. Its learned queries of standard deviation 10 make
            the attention pick single tokens, and its output maps of about 1e-6 make all q-nets nearly equal at first.
            `"scaled"` draws from ranges that keep variances near 1 through the head. `"zero_last"` is `"scaled"`
            with a last matrix of exactly zero, so that the q-net starts as the zero function.
        seed: Seed of the draw; the global random state is not touched.
    """

    def __init__(
        self,
        token_size: int,
        weight_shapes: Sequence[tuple[int, int]],
        bias_shapes: Sequence[tuple[int, int]],
        *,
        initialisation: Initialisation = "original",
        seed: int = 1,
    ) -> None:
        super().__init__()
        if initialisation not in _INITIALISATIONS:
            raise UnknownNameError("hyper-head initialisation", initialisation, _INITIALISATIONS)
        self.weight_shapes = [(int(a), int(b)) for a, b in weight_shapes]
        self.bias_sizes = [int(size) for size, _ in bias_shapes]
        widths = [a for a, _ in self.weight_shapes] + self.bias_sizes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hyper_base_matrices = _parameters((1, b, a) for a, b in self.weight_shapes)
            self.hyper_base_vectors = _parameters((1, size) for size in self.bias_sizes)
            self.weight_query_embeddings = _parameters((1, b, a) for a, b in self.weight_shapes)
            self.bias_query_embeddings = _parameters((1, 1, size) for size in self.bias_sizes)
            self.weight_hyper_projection = nn.ModuleList(nn.Linear(a, a) for a, _ in self.weight_shapes)
            self.bias_hyper_projection = nn.ModuleList(nn.Linear(size, size) for size in self.bias_sizes)
            self.key_projections = nn.ModuleList(nn.Linear(token_size, width) for width in widths)
            self.value_projections = nn.ModuleList(nn.Linear(token_size, width) for width in widths)
            self._initialise(initialisation)

    @torch.no_grad()
    def _initialise(self, initialisation: Initialisation) -> None:
        original = initialisation == "original"
        for matrix, (a, _) in zip(self.hyper_base_matrices, self.weight_shapes, strict=True):
            nn.init.normal_(matrix, std=math.sqrt(2 / 768) if original else math.sqrt(1 / a))
        for vector in self.hyper_base_vectors:
            nn.init.zeros_(vector)
        for queries in (*self.weight_query_embeddings, *self.bias_query_embeddings):
            nn.init.normal_(queries, std=10.0 if original else 1.0)
        for linear, (a, _) in zip(_linears(self.weight_hyper_projection), self.weight_shapes, strict=True):
            nn.init.normal_(linear.weight, std=1 / 768**2 if original else 1 / a)
            nn.init.zeros_(linear.bias)
        # The original zeroes the biases of the matrix heads, but not those of the vector heads.
        zeroed = len(self.weight_shapes) if original else len(self.key_projections)
        for projections in (self.key_projections, self.value_projections):
            for projection in _linears(projections)[:zeroed]:
                nn.init.zeros_(projection.bias)
        if not original:
            for linear in _linears(self.bias_hyper_projection):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        if initialisation == "zero_last":
            nn.init.zeros_(self.hyper_base_matrices[-1])
            nn.init.zeros_(_linears(self.weight_hyper_projection)[-1].weight)

    def forward(self, token_states: Tensor, attention_mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Generate parameters.

        All heads share one matrix product for their values. If the batch has more tokens than a head has learned
        queries, the key projections are folded into those queries (the key bias cancels in the softmax), which is
        then the cheaper of two equivalent formulas.

        Args:
            token_states: `(Q, T, m)`.
            attention_mask: `(Q, T)`; 0 marks padding; each row has at least one token.

        Returns:
            The matrices, each `(Q, a, b)`, and the vectors, each `(Q, size, 1)`; in the head's dtype.
        """
        # Weights generated in half precision are useless, so states are cast to the head's own precision.
        token_states = token_states.to(self.hyper_base_matrices[0].dtype)
        learned = [*self.weight_query_embeddings, *self.bias_query_embeddings]
        padding = attention_mask[:, None, :] == 0
        attended = [
            F.layer_norm(
                torch.relu(_attention(queries[0], keys, token_states, padding) @ value), value.shape[-1:], eps=_EPSILON
            )
            for queries, keys, value in zip(
                learned, _linears(self.key_projections), self._values(token_states), strict=True
            )
        ]
        count = len(self.weight_shapes)
        matrices = [
            (projection(rows) + base).mT
            for rows, projection, base in zip(
                attended[:count], self.weight_hyper_projection, self.hyper_base_matrices, strict=True
            )
        ]
        vectors = [
            (projection(rows[:, 0]) + base)[..., None]
            for rows, projection, base in zip(
                attended[count:], self.bias_hyper_projection, self.hyper_base_vectors, strict=True
            )
        ]
        return matrices, vectors

    def _values(self, token_states: Tensor) -> tuple[Tensor, ...]:
        projections = _linears(self.value_projections)
        values = F.linear(
            token_states,
            torch.cat([projection.weight for projection in projections]),
            torch.cat([projection.bias for projection in projections]),
        )
        return torch.split(values, [projection.out_features for projection in projections], dim=2)


def _attention(queries: Tensor, keys: nn.Linear, token_states: Tensor, padding: Tensor) -> Tensor:
    """Return the `(Q, b, T)` attention of `(b, a)` learned queries, by the cheaper of two equivalent formulas."""
    if token_states.shape[0] * token_states.shape[1] > queries.shape[0]:
        scores = (queries @ keys.weight) @ token_states.mT
    else:
        scores = queries @ keys(token_states).mT
    scores = scores / math.sqrt(queries.shape[0])
    return scores.masked_fill(padding, -torch.inf).softmax(-1)


def _parameters(shapes: Iterable[tuple[int, ...]]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in shapes)


def _linears(modules: nn.ModuleList) -> list[nn.Linear]:
    return cast(list[nn.Linear], list(modules))
