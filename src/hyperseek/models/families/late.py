"""Late interaction (ColBERT): a vector for every token, compared by MaxSim.

A model is sentence-transformers' `MultiVectorEncoder`, and `LateRetriever` is how the rest of this library sees it:
documents become token points, queries sets of token vectors. The model's own modules decide which tokens count: they do
the skiplists, query expansion and token pooling.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias, cast, get_args

import torch
from pydantic import Field, field_validator, model_validator
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Normalize
from tokenizers import AddedToken, processors
from tokenizers.processors import TemplateProcessing
from torch import nn

from hyperseek._config import LARGEST_SEED, Config, meaningless
from hyperseek._fingerprint import fingerprint_json
from hyperseek.errors import ConfigError, InputError
from hyperseek.geometry.euclidean import unit_vectors
from hyperseek.models.encoding import DTYPES, described_tokens
from hyperseek.models.families import Family, ModelConfig, transformer_of
from hyperseek.models.loading import load_container
from hyperseek.models.model_files import MOST_TOKENS
from hyperseek.models.modules import run_modules
from hyperseek.models.retriever import Retriever, Side
from hyperseek.nn.token_pooling import GROUPS, PoolingConfig, TokenPooling
from hyperseek.nn.token_pruning import PruningConfig, PruningTransformer
from hyperseek.scoring import MaxSimScorer, Points, TokenPoints
from hyperseek.types import Token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperseek.models.model_files import ModelFiles
    from hyperseek.scoring._maxsim import Masking

Similarity: TypeAlias = Literal["maxsim", "meanmaxsim"]


# A feature `(1, T)` of explanations: which token each one is that modules keep.
_PLACES = "token_places"


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
        self._understood = {**self._understood, **_QUERY_OPTIONS}

    def points(self, features: dict[str, Any]) -> TokenPoints:
        """Return the token points that a finished document route describes; differentiable."""
        return TokenPoints.from_padded(self._tokens(features, "document"), features["attention_mask"])

    def features_of(self, points: Points) -> dict[str, torch.Tensor]:
        """Return padded tokens and their mask, which `points` turns back into these points."""
        tokens, mask = cast("TokenPoints", points).padded()
        return {"token_embeddings": tokens, "attention_mask": mask.long()}

    def scorer(self, features: dict[str, Any], options: Mapping[str, Any] | None = None) -> MaxSimScorer:
        """Return the scorer that a finished query route describes; differentiable."""
        checked = self.check_options(options)
        tokens, mask = self._tokens(features, "query"), features["attention_mask"].float()
        if checked:
            tokens, mask = _fewer(tokens, mask, checked)
        if self.model.similarity_fn_name == "meanmaxsim":
            mask = mask / mask.sum(dim=1, keepdim=True).clamp_min(1)  # a query without tokens scores 0
        scorer = MaxSimScorer(self.space, tokens, mask, masking=self.masking)
        return scorer.with_options(checked) if checked else scorer

    def encode_documents(
        self, texts: Sequence[str], *, dtype: str = "auto", batch_tokens: int | None = None
    ) -> TokenPoints:
        """Encode documents to token points, in the order of `texts`, float32, on the CPU; see `Retriever`."""
        return cast("TokenPoints", super().encode_documents(texts, dtype=dtype, batch_tokens=batch_tokens))

    def encode_features(self, texts: Sequence[str], *, batch_tokens: int | None = None) -> torch.Tensor:
        """Encode texts to one vector each for Euclidean tools: the mean of a document's token vectors.

        Args:
            texts: Any number, of any length.
            batch_tokens: As for `encode_documents`.

        Returns:
            `(N, d)` float32, in the order of `texts`, on the CPU; 0 for a text without tokens.
        """
        points = self.encode_documents(texts, dtype="float32", batch_tokens=batch_tokens)
        lengths = points.lengths
        owner = torch.arange(len(points)).repeat_interleave(lengths)
        sums = torch.zeros(len(points), self.space.dimension).index_add_(0, owner, points.vectors.float())
        return sums / lengths[:, None].clamp_min(1)

    def row_tokens(
        self, text: str, side: Side, *, dtype: str = "float32", pooling: Mapping[str, Any] | None = None
    ) -> list[tuple[Token, ...]] | None:
        """Return the tokens that each vector of a text, or of its query, stands for; explanations read them.

        Args:
            text: One text.
            side: `"query"` or `"document"`.
            dtype: What documents were encoded in, on which it may depend which tokens are pooled.
            pooling: How documents were pooled after encoding, as options of `TokenPooling`; None for not at all.

        Returns:
            The tokens of each vector; None where modules of the model leave tokens out and do not say which.
        """
        return next(self.row_tokens_of([text], side, dtype=dtype, pooling=pooling))

    def row_tokens_of(
        self, texts: Iterable[str], side: Side, *, dtype: str = "float32", pooling: Mapping[str, Any] | None = None
    ) -> Iterator[list[tuple[Token, ...]] | None]:
        """Yield for each of many texts what `row_tokens` returns; the model is cast to `dtype` only once."""
        if self.backend is not None or dtype not in DTYPES:
            dtype = "auto" if self.backend is not None else "float32"  # of an index that a backend has encoded
        modules = self._document_modules(dtype) if side == "document" else self.route(side)
        if pooling is not None and side == "document":
            modules = [*modules, TokenPooling(**pooling)]
        for text in texts:
            yield self._row_tokens(modules, text, side)

    def _row_tokens(self, modules: Sequence[nn.Module], text: str, side: Side) -> list[tuple[Token, ...]] | None:
        read = self.preprocess([text], side)
        known = described_tokens(self.model.tokenizer, self._prompt(side), text, read)
        read[_PLACES] = torch.arange(len(known), device=self.device)[None]
        with torch.inference_mode():
            features = run_modules(modules, read, side)
        mask = features["attention_mask"][0].bool()
        # After a pooling, the mask is of what it made; before one, of tokens.
        groups = features.get(GROUPS)
        rows = torch.where(mask, mask.cumsum(0) - 1, -1) if groups is None else groups[0]
        places = features[_PLACES][0]  # fewer where tokens were pruned before the trunk
        if len(rows) != len(places):
            return None  # a module of the model dropped tokens and did not say which
        members: list[list[Token]] = [[] for _ in range(int(mask.sum()))]
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            if row >= 0:
                members[row].append(known[place])
        return [tuple(own) for own in members]

    def protocol(self) -> dict[str, Any]:
        """Return what is recorded with every measured result, including how tokens are compared."""
        return {
            **super().protocol(),
            "similarity": self.model.similarity_fn_name,
            "masking": self.masking,
            "query_expansion": self._expansion(),
        }

    @property
    def max_length(self) -> dict[str, int | None]:
        """Tokens that are kept of a text by side, as in `Retriever`; of an expanded query, those after expansion."""
        lengths, expansion = super().max_length, self._expansion()
        return lengths if expansion is None else {**lengths, "query": expansion["length"] or lengths["query"]}

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

    def _side_fingerprint(self, side: Side) -> str:
        name = super()._side_fingerprint(side)
        return name if side == "document" else fingerprint_json([name, self._expansion()])


_QUERY_OPTIONS: Mapping[str, Any] = {
    "pool_factor": Annotated[float, Field(ge=1, allow_inf_nan=False)],
    "keep_ratio": Annotated[float, Field(gt=0, le=1)],
}


def _fewer(tokens: torch.Tensor, mask: torch.Tensor, options: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a search's query tokens, the most central first if so asked, then pooled; and their weights.

    A mean stands for all tokens of its group, so that is its weight: MaxSim is a sum over tokens.
    """
    steps = []
    if "keep_ratio" in options:
        steps.append(TokenPooling(method="attention", keep_ratio=options["keep_ratio"], rounding="ceil"))
    if "pool_factor" in options:
        steps.append(TokenPooling(pool_factor=options["pool_factor"]))
    rows, weights = [], []
    for own, kept in zip(tokens, mask > 0, strict=True):
        vectors, sizes = own[kept], torch.ones(int(kept.sum()), device=own.device)
        for step in steps:
            vectors, sizes = step.pool_and_count(vectors)
        rows.append(vectors)
        weights.append(sizes)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), nn.utils.rnn.pad_sequence(weights, batch_first=True)


_WIDEST = 1 << 16  # numbers of a token after a layer of the projection


class QueryExpansion(Config):
    """Tokens that lengthen queries, and are scored like the query's own: ColBERT's query augmentation.

    Attributes:
        length: Tokens of an expanded query.
        strategy: `fixed` cuts longer queries to that length, `min` leaves them as they are.
        attend: Whether the trunk looks at the added tokens; in the original it does not.
        token: The token that is added; None takes the tokenizer's mask.
    """

    length: int = Field(default=32, ge=1, le=MOST_TOKENS)
    strategy: Literal["fixed", "min"] = "fixed"
    attend: bool = False
    token: str | None = None


class LateConfig(Config):
    """Vectors of tokens.

    Attributes:
        dimension: Numbers in a token's vector, which the projection makes of its state; None leaves states as they are.
        hidden: Widths of further layers of the projection, between the trunk and the last one.
        activation: Function after each layer of the projection.
        bias: Whether its layers have a bias.
        residual: Whether each layer adds its input, mapped linearly where the widths differ, as `use_residual` of
            PyLate's `Dense` does.
        start: What its maps start from: `orthogonal` keeps angles where `dimension` is the trunk's width (and nearly so
            below); `normal` draws with deviation 0.02. With `residual` they start near zero, and the residual's map
            starts this way.
        similarity: `maxsim`, or `meanmaxsim`, which divides by the query's tokens.
        query_expansion: How queries are lengthened; None leaves them as they are.
        skipped: Document tokens that are not scored: a list of words, or `punctuation`, as ColBERT does.
        pruning: Which tokens the trunk reads, in training too; None for all.
        pooling: How tokens are pooled to fewer vectors, in training too; None keeps one for each.
        kept: Document tokens that alone are scored: a list of words; empty for all.
        prompt_tokens: Whether each of the recipe's prompts becomes one new token, as ColBERT's `[Q] ` and `[D] `, with
            the mean of all embeddings and a small seeded difference, instead of the tokens of its words.
        end_token: Whether texts end with the tokenizer's end token, which many decoders do not add by themselves.
        padding_side: Where shorter texts are padded; None takes the tokenizer's side.
        bidirectional: Whether each token of a decoder attends to the tokens behind it too.
        seed: Of the start and of new tokens; None takes that of the training run, and 0 where there is none.
    """

    dimension: int | None = Field(default=128, ge=1, le=_WIDEST)
    hidden: tuple[Annotated[int, Field(ge=1, le=_WIDEST)], ...] = ()
    activation: Literal["identity", "tanh", "relu", "gelu", "silu"] = "identity"
    bias: bool = False
    residual: bool = False
    start: Literal["orthogonal", "normal"] = "orthogonal"
    similarity: Similarity = "maxsim"
    query_expansion: QueryExpansion | None = None
    skipped: tuple[str, ...] = ()
    pruning: PruningConfig | None = None
    pooling: PoolingConfig | None = None
    kept: tuple[str, ...] = ()
    prompt_tokens: bool = False
    end_token: bool = False
    padding_side: Literal["left", "right"] | None = None
    bidirectional: bool = False
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)

    @field_validator("skipped", mode="before")
    @classmethod
    def _write_out_punctuation(cls, value: Any) -> Any:
        return tuple(string.punctuation) if value == "punctuation" else value

    @model_validator(mode="after")
    def _check_projection(self) -> Self:
        if self.dimension is None:
            for name in ("hidden", "bias", "residual"):
                if getattr(self, name):
                    raise meaningless(name, "where there is a projection; give late.dimension")
        return self


class Late(Family):
    """A vector for every token of queries and documents."""

    config = LateConfig
    containers = ("MultiVectorEncoder", "ColBERT")  # the second is PyLate's
    architectures = ("HF_ColBERT",)
    modules = (TokenPooling, PruningTransformer)

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
        _set_up_tokens(first, options, [prompt for prompt in config.prompts.values() if prompt])
        if options.bidirectional and not _attend_both_ways(first):
            raise ConfigError("late.bidirectional is for decoders, and the trunk is not one; leave it out")
        if options.pruning is not None:
            try:
                first = PruningTransformer.around(first, options.pruning.model_dump())
            except InputError as error:
                raise ConfigError(f"late.pruning does not fit the trunk: {error}") from None
        modules: list[nn.Module] = [first, *_projection(first.get_embedding_dimension(), options)]
        modules.append(MultiVectorMask(list(options.skipped), keep_only_token_ids=_tokens_of_words(first, options)))
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
            model = load_container(MultiVectorEncoder, files, own, device=device, trust_remote_code=trust_remote_code)
        else:
            model = MultiVectorEncoder(
                files.location, device=device, trust_remote_code=trust_remote_code, revision=files.revision
            )
        first: Any = model[0]
        if getattr(getattr(first.model, "config", None), "is_causal", None) is False:
            _attend_both_ways(first)  # layers of most decoders do not read it from their configuration
        return LateRetriever(model, source=source)


_RESIDUAL_START = 1e-3  # deviation of the weights beside a residual
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def _projection(width: int, config: LateConfig) -> list[Dense]:
    """Return the layers that map states of a width to vectors."""
    if config.dimension is None:
        return []
    generator = torch.Generator().manual_seed(config.seed or 0)

    def start(layer: nn.Linear) -> None:
        if config.start == "orthogonal":
            nn.init.orthogonal_(layer.weight, generator=generator)
        else:
            nn.init.normal_(layer.weight, std=0.02, generator=generator)

    layers = []
    for size in (*config.hidden, config.dimension):
        # Identity is spelled out, since the default of a saved map without one would be the hyperbolic tangent.
        layer = Dense(
            width,
            size,
            bias=config.bias,
            activation_function=_ACTIVATIONS[config.activation](),
            module_input_name="token_embeddings",
            use_residual=config.residual,
        )
        if config.residual:
            # Not zero, where a rectifier has no slope and the layer would never learn.
            nn.init.normal_(layer.linear.weight, std=_RESIDUAL_START, generator=generator)
        else:
            start(layer.linear)
        if config.bias:
            nn.init.zeros_(layer.linear.bias)
        if config.residual and width != size:
            start(layer.residual)
        layers.append(layer)
        width = size
    return layers


def _set_up_tokens(trunk: Transformer, config: LateConfig, prompts: Sequence[str]) -> None:
    """Set the tokenizer's padding and end token, and make prompts tokens."""
    tokenizer: Any = trunk.tokenizer
    if config.padding_side is not None:
        tokenizer.padding_side = config.padding_side
    if config.end_token:
        _end_texts(tokenizer)
    new = [prompt for prompt in prompts if prompt not in tokenizer.get_vocab()] if config.prompt_tokens else []
    if not new:
        return
    # Not normalised: a tokenizer that lower-cases texts would never find them.
    tokenizer.add_tokens([AddedToken(prompt, normalized=False, special=True) for prompt in new], special_tokens=True)
    encoder: Any = trunk.model
    known = encoder.get_input_embeddings().weight.detach()
    center, deviation = known.mean(dim=0), known.std(dim=0)
    if len(tokenizer) > len(known):
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(config.seed or 0)
    with torch.no_grad():
        for prompt in new:
            noise = torch.randn(center.shape, generator=generator).to(center)
            row = tokenizer.convert_tokens_to_ids(prompt)
            encoder.get_input_embeddings().weight[row] = center + 0.1 * deviation * noise


def _end_texts(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer end each text with its end token, if it does not."""
    end = tokenizer.eos_token
    if end is None:
        raise ConfigError("late.end_token needs a tokenizer with an end token, and the trunk's has none; leave it out")
    if tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]:
        return
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError("late.end_token needs a fast tokenizer, and the trunk's is not; leave it out")
    ending = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)])
    before = backend.post_processor
    backend.post_processor = ending if before is None else processors.Sequence([before, ending])


def _tokens_of_words(trunk: Transformer, config: LateConfig) -> list[int] | None:
    """Return the numbers of the words that alone are scored; None for all."""
    if not config.kept:
        return None
    vocabulary = cast("PreTrainedTokenizerBase", trunk.tokenizer).get_vocab()
    unknown = [word for word in config.kept if word not in vocabulary]
    if unknown:
        raise ConfigError(f"late.kept has words that are not tokens of the trunk's: {', '.join(map(repr, unknown))}")
    return [vocabulary[word] for word in config.kept]


def _attend_both_ways(trunk: Transformer) -> bool:
    """Let the tokens of a decoder attend to those behind them too; False if no layer of it is causal."""
    encoder: Any = trunk.model
    layers = [module for module in encoder.modules() if getattr(module, "is_causal", None) is True]
    for layer in layers:
        layer.is_causal = False
    if layers:
        encoder.config.is_causal = False
    return bool(layers)


def _expand(trunk: Transformer, expansion: QueryExpansion) -> None:
    trunk.query_length = None  # the trunk's own; that of the recipe is set when the model is built
    try:
        trunk.query_expansion = cast("Any", expansion.model_dump())
    except ValueError as error:
        raise ConfigError(f"late.query_expansion does not fit the trunk: {error}") from None
