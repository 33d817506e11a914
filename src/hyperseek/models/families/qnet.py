"""Q-nets (Hypencoder): queries are small neural networks, generated from their token states by a hyper-head.

A sentence-transformers model passes one tensor per text from module to module, so a q-net is flattened to one row: the
base query vector (warm start only), then all matrices, then all vectors. A q-net of depth 0 is folded into a single
query vector, so a saved depth-0 model ranks by plain inner products in any tool.

The hyper-head is that of "Hypencoder: Hypernetworks for Information Retrieval", arXiv 2502.05364, section 3.2.
Parameter names are the original's, so its checkpoints load unchanged. For each matrix, `b` learned queries attend over
the tokens (divisor `sqrt(b)`, not the key width: the trained checkpoints depend on it). Each attended value passes
through a ReLU, a layer norm without parameters and one linear map, and is added to a base row. A vector is generated in
the same way, with one learned query.

Shapes: `Q` queries, `T` tokens, `m` trunk width; a generated matrix is `(a, b)`: `a` inputs, `b` outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hyperseek._config import Config
from hyperseek.errors import ConfigError, InputError, UnknownNameError
from hyperseek.models.families import Family, ModelConfig, encoder_modules, join_routes, transformer_of
from hyperseek.models.modules import SavedModule, route_width
from hyperseek.models.retriever import Retriever
from hyperseek.scoring import LinearScorer, QNetScorer, Scorer, Space, build_converter

_REPRESENTATIONS = (None, "mean", "cls")
# The converter whose score is linear in its last matrix, to which a gate can be applied.
_GATED = "repeated_dense_block"
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


class QNetConfig(Config):
    """The q-net and its hyper-head.

    Attributes:
        depth: Number of hidden layers, as wide as the document vectors; ignored if `vector_dimensions` is given.
        vector_dimensions: `[d, hidden, ..., 1]`, or None to derive it from `depth`.
        converter: Name of a registered q-net converter.
        converter_kwargs: Further arguments of the converter (activation, layer norm, residual, dropout).
        warm_start: Start from the trunk's own similarity, so that an untrained model is as good as its trunk.
        initialisation: None takes `"zero_last"` with a warm start and `"original"` without.
        embedding_representation: None, `"mean"` or `"cls"`.
    """

    depth: int = Field(default=1, ge=0)
    vector_dimensions: tuple[int, ...] | None = None
    converter: str = "repeated_dense_block"
    converter_kwargs: dict[str, Any] = Field(default_factory=dict)
    warm_start: bool = True
    initialisation: Initialisation | None = None
    embedding_representation: Literal["mean", "cls"] | None = None


class QNetHead(SavedModule):
    """A hyper-head behind a trunk: the last module of a query route.

    Reads `token_embeddings`, `attention_mask` and, for the warm start, `sentence_embedding` (the trunk's own query
    vector); writes the flat q-net to `sentence_embedding`.

    Args:
        token_size: Trunk width.
        converter_kwargs: Arguments of the q-net converter; the built-in one needs at least `vector_dimensions`.
        converter: Name of a registered q-net converter.
        warm_start: Add the similarity of the trunk's own query vector to the q-net's score. With
            `initialisation="zero_last"` the score then equals that similarity before the first training step.
        initialisation: See `HyperHead`.
        embedding_representation: None, `"mean"` or `"cls"`: also write that pooling of the token states to
            `embedding_representation`, as the original can; it is not used here. As in the original, the mean includes
            padded positions.
        gate: Factor of the q-net's score; 0 leaves only the base similarity, 1 is the head as trained.
        seed: Seed of the initialisation.

    Raises:
        InputError: A gate is given for a converter whose score is not linear in its last matrix.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it
    config_keys = (  # type: ignore[assignment]  # the base class declares a list, and only iterates
        "token_size",
        "converter",
        "converter_kwargs",
        "warm_start",
        "initialisation",
        "embedding_representation",
        "gate",
        "seed",
    )
    reads_tokens = True

    def __init__(
        self,
        token_size: int,
        converter_kwargs: Mapping[str, Any],
        *,
        converter: str = "repeated_dense_block",
        warm_start: bool = False,
        initialisation: Initialisation = "original",
        embedding_representation: Literal["mean", "cls"] | None = None,
        gate: float = 1.0,
        seed: int = 1,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if embedding_representation not in _REPRESENTATIONS:
            raise UnknownNameError("embedding_representation", embedding_representation, ["mean", "cls"])
        self.token_size = token_size
        self.converter = converter
        self.converter_kwargs = dict(converter_kwargs)
        self.warm_start = warm_start
        self.initialisation = initialisation
        self.embedding_representation = embedding_representation
        self.seed = seed
        built = build_converter(converter, converter_kwargs)
        self._weight_shapes = [tuple(shape) for shape in built.weight_shapes]
        self._bias_shapes = [tuple(shape) for shape in built.bias_shapes]
        self.space = Space("dot", self._weight_shapes[0][0])
        self.gate = gate
        self.head = HyperHead(
            token_size, built.weight_shapes, built.bias_shapes, initialisation=initialisation, seed=seed
        )

    @property
    def gate(self) -> float:
        """The factor of the q-net's score."""
        return self._gate

    @gate.setter
    def gate(self, value: float) -> None:
        if value != 1.0 and self.converter != _GATED:
            raise InputError(f"only the converter {_GATED!r} supports a gate, not {self.converter!r}")
        self._gate = float(value)

    def blending(self) -> Callable[[float], None] | None:
        """Return a function that scales the gate of a warm-started head; None if weights must be interpolated."""
        if not self.warm_start or self.converter != _GATED:
            return None
        gate = self.gate

        def blend(share: float) -> None:
            self.gate = gate * share

        return blend

    @property
    def depth(self) -> int:
        """Number of hidden layers; 0 makes the score an inner product."""
        return len(self._weight_shapes) - 1

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Replace `sentence_embedding` by the flat q-net `(Q, numbers)`."""
        states, mask = features["token_embeddings"], features["attention_mask"]
        if self.embedding_representation == "cls":
            features["embedding_representation"] = states[:, 0]
        elif self.embedding_representation == "mean":
            features["embedding_representation"] = states.sum(1) / mask.sum(1, keepdim=True)
        # Generated weights lose too much in half precision, so the head always runs in float32.
        with torch.autocast(states.device.type, enabled=False):
            matrices, vectors = self.head(states, mask)
            matrices[-1] = matrices[-1] * self.gate
            base = features["sentence_embedding"].float() if self.warm_start else None
            if self._folds:
                flat = matrices[0][..., 0]
                features["sentence_embedding"] = flat if base is None else flat + base
            else:
                parts = [*([] if base is None else [base]), *(part.flatten(1) for part in (*matrices, *vectors))]
                features["sentence_embedding"] = torch.cat(parts, dim=1)
        return features

    def scorer(self, flat: Tensor) -> Scorer:
        """Unpack flat q-nets.

        Args:
            flat: `(Q, numbers)`, as written by `forward`.

        Returns:
            The scorer of the `Q` queries.
        """
        if self._folds:
            return LinearScorer(self.space, flat)
        shapes = [*self._weight_shapes, *self._bias_shapes]
        sizes = [math.prod(shape) for shape in shapes]
        if self.warm_start:
            sizes = [self.space.dimension, *sizes]
        parts = list(torch.split(flat, sizes, dim=1))
        base = parts.pop(0) if self.warm_start else None
        tensors = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        return QNetScorer(
            self.space,
            tensors[: len(self._weight_shapes)],
            tensors[len(self._weight_shapes) :],
            converter=self.converter,
            converter_kwargs=self.converter_kwargs,
            base=base,
            is_training=self.training,
        )

    def get_embedding_dimension(self) -> int:
        """Return the size of a flat q-net."""
        if self._folds:
            return self.space.dimension
        numbers = sum(math.prod(shape) for shape in (*self._weight_shapes, *self._bias_shapes))
        return numbers + (self.space.dimension if self.warm_start else 0)

    @property
    def _folds(self) -> bool:
        return self.depth == 0 and self.converter == _GATED


class PaddedMeanPooling(SavedModule):
    """Sum over all positions, padding included, divided by the number of real tokens.

    A text's vector therefore depends on the longest text of its batch. Checkpoints trained this way lose quality if
    pooled correctly; new models should use `Pooling`.

    Args:
        embedding_dimension: Trunk width.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it
    reads_padding = True
    config_keys = ("embedding_dimension",)  # type: ignore[assignment]  # the base class declares a list

    def __init__(self, embedding_dimension: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.embedding_dimension = embedding_dimension

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Write `sentence_embedding` `(N, d)`."""
        counts = features["attention_mask"].sum(1, keepdim=True)
        features["sentence_embedding"] = features["token_embeddings"].sum(1) / counts
        return features

    def get_embedding_dimension(self) -> int:
        """Return the trunk width."""
        return self.embedding_dimension


class QNet(Family):
    """Queries are small networks that score document vectors."""

    config = QNetConfig
    copies_head = True
    modules = (QNetHead, PaddedMeanPooling)
    former_names = {  # noqa: RUF012  # never changed
        "hyperseek.models._qnet_head.QNetHead": QNetHead,
        "hyperseek.models.families.qnet.QNetHead": QNetHead,
        "hyperseek.models._padded_mean.PaddedMeanPooling": PaddedMeanPooling,
        "hyperseek.models.families.qnet.PaddedMeanPooling": PaddedMeanPooling,
    }

    def build(self, trunk: Retriever, document_trunk: Retriever, config: ModelConfig) -> Retriever:
        """Append a hyper-head to the query route; see `Family.build`."""
        # A q-net's inner product with a vector of norm 1 is the trunk's cosine.
        queries, query_unit = encoder_modules(trunk, config, unit=True)
        documents, document_unit = list(queries), query_unit
        if document_trunk is not trunk:
            documents, document_unit = encoder_modules(document_trunk, config, unit=True)
        first = transformer_of(trunk, "a q-net can be built")
        options: QNetConfig = config.options
        dimension = route_width(documents)
        sizes = list(options.vector_dimensions or (*[dimension] * (options.depth + 1), 1))
        kwargs = dict(options.converter_kwargs)
        if options.converter == "repeated_dense_block":
            if sizes[0] != dimension:
                raise ConfigError(f"vector_dimensions begins with {sizes[0]}, but document vectors have {dimension}")
            kwargs["vector_dimensions"] = sizes
        if options.warm_start and (width := route_width(queries)) != dimension:
            raise ConfigError(f"a warm start needs query and document vectors of one size, not {width} and {dimension}")
        head = QNetHead(
            first.get_embedding_dimension(),
            kwargs,
            converter=options.converter,
            warm_start=options.warm_start,
            initialisation=options.initialisation or ("zero_last" if options.warm_start else "original"),
            embedding_representation=options.embedding_representation,
            gate=_first_gate(sizes, options),
        )
        if query_unit != document_unit:
            raise ConfigError("a q-net needs either both trunks to normalise their vectors, or neither; set normalize")
        return join_routes([*queries, head] if options.warm_start else [first, head], documents, trunk, "dot")

    def copy_head(self, source: Retriever, target: Retriever) -> None:
        """Copy a hyper-head; see `Family.copy_head`."""
        theirs, ours = source.route("query")[-1], target.route("query")[-1]
        if not isinstance(theirs, QNetHead) or not isinstance(ours, QNetHead):
            raise ConfigError("head_from must be a q-net model")
        try:
            ours.head.load_state_dict(theirs.head.state_dict())
        except RuntimeError as error:
            raise ConfigError(f"the hyper-head of head_from does not fit this q-net: {error}") from None


def _first_gate(sizes: list[int], config: QNetConfig) -> float:
    """Return the factor of a new q-net's score.

    A layer-normalised hidden state has norm `sqrt(size)`, the points of the base similarity norm 1. Without this
    factor, an optimiser step changes the q-net's score that many times as much as the base, and the warm start is
    forgotten before anything is learned.
    """
    deep = len(sizes) > 2 and config.converter == _GATED
    return sizes[-2] ** -0.5 if config.warm_start and deep else 1.0
