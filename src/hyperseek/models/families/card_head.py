"""The head of models with task cards: a card is compiled to a change of the query vectors of a frozen encoder.

The head is the last module of the query route. Documents are those of the trunk, so that an index of the trunk serves
every task, and a search without a card is the trunk's own. A card's texts are encoded by the trunk once; what a card is
compiled to, a few thousand numbers, is remembered, and kept on disk beside an index.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from hyperseek._config import LARGEST_SEED, Config
from hyperseek._files import write_json
from hyperseek._fingerprint import fingerprint_json
from hyperseek._machine import Kept
from hyperseek.cards import Card, is_card_file, read_card
from hyperseek.errors import ConfigError, InputError, UnknownNameError, shown
from hyperseek.models.families.card_reading import (
    CardReader,
    Comparison,
    CompiledFile,
    Divide,
    Encode,
    SeenCard,
    read_seen,
)
from hyperseek.models.modules import SavedModule
from hyperseek.models.retriever import Side
from hyperseek.nn.card_encoder import CardCompiler, CardFeatures, CardQNet, EncoderName, HydraCompiler
from hyperseek.nn.heads import HeadName, HydraProjectionHead, build_head
from hyperseek.nn.tangent_projection import FullPrecision
from hyperseek.scoring import CardScorer, DocumentHead, LinearScorer, QNetScorer, Scorer, Space
from hyperseek.types import QueryOptions

logger = logging.getLogger(__name__)

Sides: TypeAlias = Literal["query", "both", "separate"]

_WIDEST = 1 << 14
_MOST_PARAMETERS = 1 << 28  # 1 GiB
_QNET_HIDDEN = 32
_REMEMBERED = 1 << 26  # bytes of compiled heads
_CARDS = "cards.json"  # in the module's folder
_NAMED = 8  # cards that warnings are given about: an evaluation asks with hundreds
_COMPILED = "cards"  # in the folder of an index
_ORIGINAL = ("hydra", "hydra_projection")


class CardConfig(Config):
    """A head that is generated from a task card.

    Attributes:
        head: What a card changes: `shift` adds a vector, `film` scales and shifts a shared map of low rank, `low_rank`
            and `full` add a linear map and a vector, `householder` rotates. `hydra` and `hydra_projection` are those of
            Hydra, whose first never learns its linear map.
        rank: Rank of `film` and `low_rank`, or pairs of reflections of `householder`.
        sides: `query` leaves documents as they are, so that every engine is exact; `both` changes them alike, and
            `separate` otherwise, so that candidates are scored again. Hydra's heads are made for `both`.
        encoder: How a card is read: `attention` and `statistics` read every example by itself, and pool them by learned
            weights or by their mean and covariance; `description` reads no examples; `text` reads Hydra's text, cut
            where the trunk stops reading, and is what Hydra's heads take.
        whiten: Whether vectors of cards are whitened, as fitted to the cards of the training.
        width: Numbers of a card's vector.
        qnet: Hidden layers of a q-net made from the card and the query together, whose score is added; 0 adds a vector
            to the query; None for no q-net.
        gate: Whether confidence in a card is learned, with which the head fades to the identity.
        seed: Seed of the initial weights; None takes the run's.
    """

    head: HeadName = "low_rank"
    rank: int = Field(default=16, ge=1, le=_WIDEST)
    sides: Sides = "query"
    encoder: EncoderName = "attention"
    whiten: bool = True
    width: int = Field(default=256, ge=1, le=_WIDEST)
    qnet: int | None = Field(default=None, ge=0, le=16)
    gate: bool = True
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)

    @model_validator(mode="before")
    @classmethod
    def _hydras_own(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("head") in _ORIGINAL:
            return {"sides": "both", "encoder": "text", "whiten": False, "gate": False, **values}
        return values

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.head in _ORIGINAL and (self.encoder != "text" or self.whiten or self.gate or self.qnet is not None):
            raise ValueError(
                f"head: {self.head} takes encoder: text and neither whiten, gate nor qnet, as the original"
            )
        if self.head == "hydra_projection" and self.sides == "query":
            raise ValueError("head: hydra_projection leaves the space of the documents, so sides must not be query")
        if self.qnet is not None and self.sides != "query":
            raise ValueError("a q-net scores documents as they are stored; leave qnet out, or take sides: query")
        return self


class CardHead(FullPrecision, SavedModule):
    """Compiles a task card, and changes query vectors by it.

    Reads and writes `sentence_embedding`, which stays as it is: what a card changes happens in the scorer.

    Args:
        dimension: Numbers of a vector.
        similarity: Space of the vectors: `cosine`, `dot` or `euclidean`.
        share: Share of what was learned, from 0 to 1.
        generator: Width of the original's generator, for heads of Hydra.
        **options: Fields of `CardConfig`.

    Attributes:
        config: All options.

    Raises:
        ConfigError: An option is invalid, or together they make too large a head.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it
    reads_tokens = False

    def __init__(
        self, dimension: int, similarity: str = "cosine", *, share: float = 1.0, generator: int = 512, **options: Any
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        config = CardConfig.from_mapping(options, source="CardHead")
        if not all(isinstance(size, int) and 1 <= size <= _WIDEST for size in (dimension, generator)):
            raise ConfigError(f"dimension and generator are from 1 to {_WIDEST:,}, not {shown((dimension, generator))}")
        self.dimension = dimension
        self.base_space = Space(similarity, dimension)
        if not self.base_space.plain_product and (config.sides != "query" or config.qnet is not None):
            raise ConfigError(f"documents compared by {similarity!r} take sides: query and no qnet")
        self.config = config
        self.share = share
        self.generator = generator
        seed = config.seed or 0
        with torch.device("meta"):  # whether there is room
            count = build_head(config.head, dimension, rank=config.rank, seed=seed).count
        size = count * (generator if config.head in _ORIGINAL else config.width)
        if size > _MOST_PARAMETERS:
            raise ConfigError(
                f"a card's {count:,} numbers would take {size:,} parameters, and at most {_MOST_PARAMETERS:,} are "
                f"allowed; lower width or rank, or take another head"
            )
        self.head = build_head(config.head, dimension, rank=config.rank, seed=seed)
        self.document_head = None
        if config.sides == "separate":
            self.document_head = build_head(config.head, dimension, rank=config.rank, seed=seed + 1)
        heads = [self.head, *([self.document_head] if self.document_head is not None else [])]
        starts = torch.cat([head.start() for head in heads])
        self.compiler: CardCompiler | HydraCompiler
        if config.head in _ORIGINAL:
            self.compiler = HydraCompiler(dimension, len(starts), width=config.width, hidden=generator, seed=seed)
        else:
            self.compiler = CardCompiler(
                dimension,
                starts,
                width=config.width,
                kind=config.encoder,
                gate=config.gate,
                whiten=config.whiten,
                seed=seed,
            )
        self.qnet = None
        if config.qnet is not None:
            sizes = [dimension, *[_QNET_HIDDEN] * config.qnet, 1]
            self._qnet_arguments = {"vector_dimensions": sizes, "do_residual": False}
            self.qnet = CardQNet(dimension, config.width, sizes, seed=seed)
        self.count = len(starts) + 1 + (config.width if self.qnet is not None else 0)
        """Numbers that a card is compiled to."""
        self.seen: tuple[SeenCard, ...] = ()
        self._compared: Comparison | None = None  # with those in `seen`
        self._reader = CardReader(dimension, config.encoder, unit=self.base_space.unit_norm)
        self._kept_in: tuple[Path, Callable[[], str]] | None = None
        self._confidence_alone = False
        self._forget_compiled()

    @property
    def query_options(self) -> dict[str, Any]:
        """The option of queries: `card`, which becomes the JSON of one."""
        return {"card": Annotated[str, AfterValidator(self._canonical)]}

    def _canonical(self, given: str) -> str:
        return self.find(given).to_json_text()

    def find(self, given: str) -> Card:
        """Return a card.

        Args:
            given: Its JSON, the path of its file, or the name of a card of the training.

        Returns:
            The card.

        Raises:
            ConfigError: It cannot be read.
            UnknownNameError: No card of the training has that name.
        """
        if given.lstrip().startswith("{"):
            return Card.from_json_text(given)
        if is_card_file(given):
            return read_card(given)
        known = {seen.card.name: seen.card for seen in self.seen}
        if given not in known:
            hint = "the model has seen none in training; give the path of a file that ends in .yaml or .json"
            raise UnknownNameError("card", given, known, hint=hint)
        return known[given]

    def reads_texts(self, encode: Encode, divide: Divide | None = None) -> None:
        """Take the functions that read texts, which a `Retriever` gives.

        Args:
            encode: Returns base vectors `(N, d)` of texts of a side.
            divide: Returns the parts of a text that the encoder reads whole; None keeps the present one.
        """
        self._reader.take(encode, divide)
        self._forget_compiled()

    def keeps_in(self, folder: Path, named: Callable[[], str]) -> None:
        """Keep compiled cards in a folder from now on.

        Args:
            folder: That of an index.
            named: Returns the fingerprint of the model's query side.
        """
        self._kept_in = (folder / _COMPILED, named)

    def card_features(self, card: Card) -> CardFeatures:
        """Return the vectors of a card's texts, remembered by its content.

        Judged pairs count as examples; texts that are longer than the trunk reads are read in parts, whose vectors are
        averaged. For the encoder `text` the description is Hydra's text, cut with a warning.

        Args:
            card: The card.

        Returns:
            Its vectors, which have no gradient.

        Raises:
            ModelError: The head belongs to no `Retriever`, which reads texts for it.
        """
        return self._reader.features(card).to(next(self.parameters()).device)

    def fit_cards(self, cards: Sequence[Card]) -> None:
        """Take the cards of the training: whitening is fitted to them, and later cards are compared with them.

        Args:
            cards: At least one; they are saved with the model, and can then be asked for by name.

        Raises:
            InputError: There are none, or two have one name.
        """
        names = [card.name for card in cards]
        if not cards or len(set(names)) < len(names):
            raise InputError(f"give cards with distinct names, at least one, not {shown(names)}")
        features = [self.card_features(card) for card in cards]
        with torch.no_grad():
            self.compiler.fit(features)
        means = [[part.tolist() for part in each.means] for each in features]
        self.seen = tuple(
            SeenCard.from_mapping({"card": card, "means": mean}) for card, mean in zip(cards, means, strict=True)
        )
        self._forget_compiled()

    def _forget_compiled(self) -> None:
        self._compiled = Kept(most_bytes=_REMEMBERED)
        self._warned: set[str] = set()

    def nearest_tasks(self, card: Card) -> list[tuple[str, float]]:
        """Return how far a card is from those of the training.

        Args:
            card: The card.

        Returns:
            Names and distances, from 0 for the same to 2, the nearest first.
        """
        with torch.no_grad():
            return self.comparison().named(self.card_features(card).means)

    def comparison(self) -> Comparison:
        """Return what compares cards with those of the training."""
        known = self._compared
        if known is None or known.seen is not self.seen:
            self._compared = known = Comparison(self.seen, self._reader)
        return known

    def _distance(self, card: Card) -> Tensor:
        with torch.no_grad():
            return self.comparison().nearest(self.card_features(card).means)

    def _warn(self, card: Card, unlike: str) -> None:
        name = self._reader.name(card)
        if unlike and name not in self._warned:
            self._warned.add(name)
            if len(self._warned) <= _NAMED:
                logger.warning("%s", unlike)
            if len(self._warned) == _NAMED:
                logger.warning("further cards unlike those of the training are not named")

    def compile_card(self, card: Card) -> Tensor:
        """Compile a card.

        Args:
            card: The card.

        Returns:
            `(count,)` numbers; the last is the confidence, from 0 to 1. In training they have a gradient;
            otherwise they are remembered, and kept on disk once the head knows where.

        Raises:
            ModelError: The head belongs to no `Retriever`.
        """
        if self.training and torch.is_grad_enabled():
            self._compiled = Kept(most_bytes=_REMEMBERED)  # fused optimisers do not tell of the step that follows
            # A task that is being learned is not far from those of the training, whatever its card was drawn from.
            distance, alone = (self._distance(card), True) if self._confidence_alone else (None, False)
            return self.compile_features(self.card_features(card), distance, confidence_alone=alone)

        def make() -> Tensor:
            with torch.inference_mode(False), torch.no_grad():  # also used where gradients are
                return self._from_disk(card)

        key = (self._reader.name(card), self._state())
        found: Tensor = self._compiled.get(key, make, size=lambda tensor: tensor.nbytes)
        return found

    @contextmanager
    def learning_confidence(self) -> Iterator[None]:
        """Let compiled cards have a gradient of the confidence alone, as for tasks that the head is not to learn."""
        self._confidence_alone = True
        try:
            yield
        finally:
            self._confidence_alone = False

    def compile_features(
        self, features: CardFeatures, distance: Tensor | None = None, *, confidence_alone: bool = False
    ) -> Tensor:
        """Compile the vectors of a card's texts, as of one drawn from examples in training.

        Args:
            features: The vectors.
            distance: 0-dim, to the nearest task of the training; None takes 0.
            confidence_alone: Whether the confidence alone has a gradient.

        Returns:
            `(count,)` numbers, as of `compile_card`; differentiable.
        """
        if distance is None:
            distance = features.description.new_zeros(())
        numbers: Tensor = self.compiler(features, distance, confidence_alone=confidence_alone)
        if self.qnet is None:
            return numbers
        vector = self.compiler.vector(features)
        return torch.cat([numbers[:-1], vector.detach() if confidence_alone else vector, numbers[-1:]])

    def _state(self) -> tuple[object, ...]:
        """Return what changes with the weights."""
        tensors = [*self.parameters(), *self.buffers()]
        return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)

    def _from_disk(self, card: Card) -> Tensor:
        device = next(self.parameters()).device
        kept = None
        if self._kept_in is not None:
            folder, named = self._kept_in
            model = self._compiled.get(("model", self._state()), named)  # takes as long as reading a card
            kept = CompiledFile(folder / f"{fingerprint_json([self._reader.name(card), model])}.safetensors")
            found = kept.read(self.count, device)
            if found is not None:
                self._warn(card, found[1])
                return found[0]
        unlike = self.comparison().unlike(card, self.card_features(card).means)
        self._warn(card, unlike)
        numbers = self.compile_features(self.card_features(card), self._distance(card))
        if kept is not None:
            kept.write(numbers, card, unlike)
        return numbers

    def confidence(self, card: Card) -> float:
        """Return the confidence in a card, from 0, which leaves queries as they are, to 1."""
        with torch.no_grad():
            return float(self.compile_card(card)[-1])

    def changed(self, rows: Tensor, numbers: Tensor, *, side: Side = "query") -> Tensor:
        """Return vectors as a card changes them, as points of the space where they stay in it.

        Args:
            rows: `(N, d)` base vectors.
            numbers: `(count,)`, from `compile_card`.
            side: Whose; documents change unless `sides` is `query`.

        Returns:
            `(N, d)`, or `(N, 256)` with Hydra's older head; differentiable.
        """
        head, own, gate = self._of_side(numbers, side)
        if isinstance(head, HydraProjectionHead):
            made = head(rows, own)
            return nn.functional.normalize(made, dim=-1) if self.base_space.unit_norm else made
        return self.base_space.canonical(rows + gate * head.change(rows, own))

    def _of_side(self, numbers: Tensor, side: Side) -> tuple[Any, Tensor, Tensor]:
        own, gate = numbers[: self.head.count], self.share * numbers[-1]
        if side == "document" and self.document_head is not None:
            return self.document_head, numbers[self.head.count : self.head.count + self.document_head.count], gate
        return self.head, own, gate

    def _document_change(self, numbers: Tensor) -> DocumentHead:
        head, own, gate = self._of_side(numbers, "document")
        if isinstance(head, HydraProjectionHead):
            matrix, bias, scale, shift = head.parts(own)
            return DocumentHead(matrix, bias, 1 + scale, shift)
        matrix, bias = head.affine(own)
        eye = torch.eye(self.dimension, device=matrix.device)
        return DocumentHead(eye + gate * (matrix - eye), gate * bias)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the features as they are."""
        return features

    def scorer(self, rows: Tensor, options: QueryOptions) -> Scorer:
        """Return the scorer of base query vectors `(Q, d)` under a card; of the vectors themselves without one."""
        if options.card is None:
            return LinearScorer(self.base_space, rows)
        with torch.autocast(rows.device.type, enabled=False):
            return self.scorer_of(rows, self.compile_card(self.find(options.card)))

    def scorer_of(self, rows: Tensor, numbers: Tensor) -> Scorer:
        """Return the scorer of queries under a compiled card; differentiable.

        Args:
            rows: `(Q, d)` base vectors of the queries.
            numbers: `(count,)`, from `compile_card` or `compile_features`.

        Returns:
            A `LinearScorer` where documents stay as they are, a `QNetScorer` with a q-net, else a `CardScorer`.
        """
        queries = self.changed(self.base_space.canonical(rows), numbers)
        if self.config.sides != "query":
            return CardScorer(self.base_space, queries, self._document_change(numbers))
        if self.qnet is None:
            return LinearScorer(self.base_space, queries)
        matrices, vectors = self.qnet(queries, numbers[self.head.count : -1])
        matrices[-1] = self.share * matrices[-1]
        if not vectors:
            return LinearScorer(self.base_space, self.base_space.canonical(queries + matrices[0][..., 0]))
        return QNetScorer(
            Space("dot", self.dimension), matrices, vectors, converter_kwargs=self._qnet_arguments, base=queries
        )

    def blending(self) -> Callable[[float], None] | None:
        """Return a function that moves from the trunk to the trained head; None for Hydra's older head."""
        if isinstance(self.head, HydraProjectionHead):
            return None
        share = self.share

        def blend(wanted: float) -> None:
            self.share = share * wanted

        return blend

    def get_embedding_dimension(self) -> int:
        """Return how many numbers a base vector has."""
        return self.dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return the constructor arguments, as plain JSON values."""
        return {
            "dimension": self.dimension,
            "similarity": self.base_space.kind,
            "share": self.share,
            "generator": self.generator,
            **self.config.model_dump(mode="json"),
        }

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write configuration, weights and the cards of the training into a folder."""
        super().save(output_path, *args, **kwargs)
        write_json(Path(output_path) / _CARDS, [seen.model_dump(mode="json") for seen in self.seen])

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:  # type: ignore[override]  # places by name only
        """Read what `save` wrote, from a folder or a Hub repository."""
        module: Self = super().load(model_name_or_path, **kwargs)
        where = {name: kwargs[name] for name in ("subfolder", "revision") if name in kwargs}
        path = cls.load_file_path(model_name_or_path, _CARDS, **where)
        if path is not None:
            module.seen = read_seen(path, module.dimension)
        return module
