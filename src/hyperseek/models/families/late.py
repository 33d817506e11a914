"""Late interaction (ColBERT): a vector for every token, compared by MaxSim.

A model is sentence-transformers' `MultiVectorEncoder`, and `LateRetriever` is how the rest of this library sees it:
documents become token points, queries sets of token vectors. The model's own modules decide which tokens count: they do
the skiplists, query expansion and token pooling.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, cast, get_args

import torch
from pydantic import Field, field_validator
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from hyperseek._config import Config
from hyperseek._fingerprint import fingerprint_json
from hyperseek.errors import ConfigError, InputError
from hyperseek.geometry.euclidean import unit_vectors
from hyperseek.models.family import Family, ModelConfig, transformer_of
from hyperseek.models.loading import load_modules
from hyperseek.models.retriever import Retriever, Side
from hyperseek.nn.token_pooling import PoolingConfig, TokenPooling
from hyperseek.scoring import MaxSimScorer, Points, TokenPoints

if TYPE_CHECKING:
    from hyperseek.models.model_files import ModelFiles
    from hyperseek.scoring._maxsim import Masking

Similarity: TypeAlias = Literal["maxsim", "meanmaxsim"]


class LateRetriever(Retriever):
    """A model that encodes a document to one vector per token, and compiles queries to a `MaxSimScorer`.

    `load` returns one for every multi-vector checkpoint; from a model in memory it is made directly.

    Args:
        model: The module container.
        source: The path or name it came from, which an index remembers.
        masking: `"exact"`, or `"pylate"` to score as PyLate does; see `MaxSimScorer`.

    Attributes:
        masking: As given; may be changed.

    Raises:
        InputError: The model's similarity is not known here.
    """

    outputs: ClassVar[tuple[str, ...]] = ("token_embeddings", "attention_mask")
    model: MultiVectorEncoder  # type: ignore[assignment]  # its own archetype beside SentenceTransformer

    def __init__(self, model: MultiVectorEncoder, *, source: str | None = None, masking: Masking = "exact") -> None:
        super().__init__(model, source=source)  # type: ignore[arg-type]
        self.masking = masking

    def points(self, features: dict[str, Any]) -> TokenPoints:
        """Return the token points that a finished document route describes; differentiable."""
        return TokenPoints.from_padded(self._tokens(features, "document"), features["attention_mask"])

    def features_of(self, points: Points) -> dict[str, torch.Tensor]:
        """Return padded tokens and their mask, which `points` turns back into these points."""
        tokens, mask = cast("TokenPoints", points).padded()
        return {"token_embeddings": tokens, "attention_mask": mask.long()}

    def scorer(self, features: dict[str, Any], options: Mapping[str, Any] | None = None) -> MaxSimScorer:
        """Return the scorer that a finished query route describes; differentiable."""
        self.check_options(options)
        mask = features["attention_mask"].float()
        if self.model.similarity_fn_name == "meanmaxsim":
            mask = mask / mask.sum(dim=1, keepdim=True).clamp_min(1)  # a query without tokens scores 0
        return MaxSimScorer(self.space, self._tokens(features, "query"), mask, masking=self.masking)

    def encode_documents(
        self, texts: Sequence[str], *, dtype: str = "auto", batch_tokens: int | None = None
    ) -> TokenPoints:
        """Encode documents to token points, in the order of `texts`, float32, on the CPU; see `Retriever`."""
        return cast("TokenPoints", super().encode_documents(texts, dtype=dtype, batch_tokens=batch_tokens))

    def protocol(self) -> dict[str, Any]:
        """Return what is recorded with every measured result, including how tokens are compared."""
        return {
            **super().protocol(),
            "similarity": self.model.similarity_fn_name,
            "masking": self.masking,
            "query_expansion": self._expansion(),
        }

    def _space_kind(self) -> str:
        known = get_args(Similarity)
        if self.model.similarity_fn_name not in known:
            raise InputError(
                f"the model compares by {self.model.similarity_fn_name!r}; late interaction knows {', '.join(known)}"
            )
        return "tokens"

    def _gather(self, batches: Iterable[tuple[list[int], Points]], count: int) -> TokenPoints:
        positions: list[int] = []
        parts = [TokenPoints(torch.zeros(0, self.space.dimension), torch.zeros(1, dtype=torch.int64))]
        for batch, points in batches:
            positions.extend(batch)
            parts.append(cast("TokenPoints", points.to("cpu")))
        order = torch.tensor(positions, dtype=torch.int64).argsort()
        return TokenPoints.concatenate(parts)[order]

    def _tokens(self, features: dict[str, Any], side: Side) -> torch.Tensor:
        tokens: torch.Tensor = features["token_embeddings"]
        if tokens.dtype == torch.float32 or not isinstance(self.route(side)[-1], Normalize):
            return tokens.float()
        return unit_vectors(tokens)  # half precision leaves norms that are off by a thousandth

    def _expansion(self) -> dict[str, Any] | None:
        return getattr(self.route("query")[0], "query_expansion", None)

    def _lengths(self) -> dict[str, int | None]:
        expansion = self._expansion()
        lengths = super()._lengths()
        return lengths if expansion is None else {**lengths, "query": expansion["length"] or lengths["query"]}

    def _side_fingerprint(self, side: Side) -> str:
        name = super()._side_fingerprint(side)
        return name if side == "document" else fingerprint_json([name, self._expansion()])


class QueryExpansion(Config):
    """Tokens that lengthen queries, and are scored like the query's own: ColBERT's query augmentation.

    Attributes:
        length: Tokens of an expanded query.
        strategy: `fixed` cuts longer queries to that length, `min` leaves them as they are.
        attend: Whether the trunk looks at the added tokens; in the original it does not.
        token: The token that is added; None takes the tokenizer's mask.
    """

    length: int = Field(default=32, ge=1)
    strategy: Literal["fixed", "min"] = "fixed"
    attend: bool = False
    token: str | None = None


class LateConfig(Config):
    """Vectors of tokens.

    Attributes:
        dimension: Numbers in a token's vector, which a linear map makes of its state; None leaves states as they are.
        start: What the map starts from: `orthogonal` keeps angles where `dimension` is the trunk's width (and nearly so
            below); `normal` draws with deviation 0.02.
        similarity: `maxsim`, or `meanmaxsim`, which divides by the query's tokens.
        query_expansion: How queries are lengthened; None leaves them as they are.
        skipped: Document tokens that are not scored: a list of words, or `punctuation`, as ColBERT does.
        pooling: How tokens are pooled to fewer vectors, in training too; None keeps one for each.
        seed: Of the start.
    """

    dimension: int | None = Field(default=128, ge=1)
    start: Literal["orthogonal", "normal"] = "orthogonal"
    similarity: Similarity = "maxsim"
    query_expansion: QueryExpansion | None = None
    skipped: tuple[str, ...] = ()
    pooling: PoolingConfig | None = None
    seed: int = Field(default=0, ge=0)

    @field_validator("skipped", mode="before")
    @classmethod
    def _write_out_punctuation(cls, value: Any) -> Any:
        return tuple(string.punctuation) if value == "punctuation" else value


class Late(Family):
    """A vector for every token of queries and documents."""

    config = LateConfig
    containers = ("MultiVectorEncoder", "ColBERT")  # the second is PyLate's
    architectures = ("HF_ColBERT",)
    modules = (TokenPooling,)

    def check(self, config: ModelConfig) -> None:
        """See `Family.check`."""
        if config.document_trunk is not None:
            raise ValueError("family: late encodes queries and documents by one trunk; leave document_trunk out")
        if config.pooling is not None:
            raise ValueError("family: late keeps the tokens of a text apart; leave pooling out")
        expansion = config.options.query_expansion
        if expansion is not None and config.query_length is not None and config.query_length < expansion.length:
            raise ValueError(
                f"query_length is {config.query_length}, and query_expansion lengthens queries to {expansion.length}; "
                f"raise the one or lower the other"
            )

    def build(self, trunk: Retriever, document_trunk: Retriever, config: ModelConfig) -> LateRetriever:
        """Put a linear map of tokens behind the trunk; see `Family.build`."""
        first, options = transformer_of(trunk, "late interaction is"), config.options
        modules: list[nn.Module] = [first]
        if options.dimension is not None:
            modules.append(_token_map(first.get_embedding_dimension(), options))
        modules.append(MultiVectorMask(list(options.skipped)))
        if config.normalize is not False:
            modules.append(Normalize(module_input_name="token_embeddings"))
        if options.pooling is not None:
            modules.append(TokenPooling(**options.pooling.model_dump(exclude_unset=True)))
        if options.query_expansion is not None:
            _expand(first, options.query_expansion)
        model = MultiVectorEncoder(
            modules=modules,
            device=str(trunk.device),
            prompts={side: prompt or "" for side, prompt in trunk.model.prompts.items()},
            similarity_fn_name=options.similarity,
        )
        return LateRetriever(model, source=trunk.source)

    def load(self, files: ModelFiles, *, source: str, device: str | None, trust_remote_code: bool) -> LateRetriever:
        """Open what sentence-transformers opens; see `Family.load`."""
        own = self.module_names()
        if any(entry.type in own for entry in files.modules):
            config = files.container
            model = MultiVectorEncoder(
                modules=load_modules(files, own, trust_remote_code=trust_remote_code),  # type: ignore[arg-type]
                device=device,
                prompts={name: prompt or "" for name, prompt in (config.prompts or {}).items()},
                default_prompt_name=config.default_prompt_name,
                similarity_fn_name=config.similarity_fn_name,
            )
        else:
            model = MultiVectorEncoder(
                files.location, device=device, trust_remote_code=trust_remote_code, revision=files.revision
            )
        return LateRetriever(model, source=source)


def _token_map(width: int, config: LateConfig) -> Dense:
    size = config.dimension or width
    weight = torch.empty(size, width)
    generator = torch.Generator().manual_seed(config.seed)
    if config.start == "orthogonal":
        nn.init.orthogonal_(weight, generator=generator)
    else:
        nn.init.normal_(weight, std=0.02, generator=generator)
    # Identity is spelled out, since the default of a saved map without one would be the hyperbolic tangent.
    return Dense(
        width,
        size,
        bias=False,
        activation_function=nn.Identity(),
        init_weight=weight,
        module_input_name="token_embeddings",
    )


def _expand(trunk: Transformer, expansion: QueryExpansion) -> None:
    trunk.query_length = None  # the trunk's own; that of the recipe is set when the model is built
    try:
        trunk.query_expansion = cast("Any", expansion.model_dump())
    except ValueError as error:
        raise ConfigError(f"late.query_expansion does not fit the trunk: {error}") from None
