"""The cards of batches: what a model with cards is told about the task while it is trained.

A batch is of one task and has one card. It is an *episode*: the words of the task's card, with examples drawn from the
task's other training examples, so that a model learns to read cards and not to know its tasks by heart.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hyperseek._relevance import text_key
from hyperseek.cards import GENERIC, Card, hydra_card, hydra_templates, read_card
from hyperseek.errors import ConfigError, InputError
from hyperseek.models import Retriever
from hyperseek.models.retriever import Side
from hyperseek.runs.recipe import expanded
from hyperseek.training._recipe import HOLDOUT, CardsConfig, Recipe, SourceConfig
from hyperseek.training._training_data import ReadSources, held_out_set
from hyperseek.training._training_set import BatchCards, Drawn, Example, TrainingSet
from hyperseek.training._validation import DevSet
from hyperseek.types import NO_OPTIONS, QueryOptions

if TYPE_CHECKING:
    from hyperseek.training._cache import SideFeatures

_WRITTEN_QUERIES, _WRITTEN_DOCUMENTS = 20, 10
_MOST_EXAMPLES = 1000  # that a card can have
_LONGEST_EXAMPLE = 100_000  # characters that a card takes of an example


def card_head(retriever: Retriever) -> Any:
    """Return the module that compiles cards, or None: the last of the query route, if its queries take a card."""
    head: Any = retriever.route("query")[-1]
    return head if "card" in getattr(head, "query_options", {}) else None


@dataclass(frozen=True, slots=True)
class Task:
    """A source of training examples, or a slice of one, as a task of its own.

    Attributes:
        card: What validation asks with, and what is saved with the model.
        origin: Position of the source that it is, or is a slice of.
        stranger: Whether confidence alone is learned from it.
    """

    card: Card
    origin: int
    stranger: bool = False


def tasks_of(recipe: Recipe, retriever: Retriever, training_set: TrainingSet) -> list[Task]:
    """Return the tasks of a recipe's sources.

    Args:
        recipe: Names the cards.
        retriever: The model.
        training_set: The examples of all sources.

    Returns:
        The task of each source; none if the model takes no cards.

    Raises:
        ConfigError: A card cannot be read, the recipe sets something about cards and the model takes none, or cards
            cannot be trained as the recipe says.
    """
    sources, data, config = recipe.data.sources, recipe.data, recipe.train
    if card_head(retriever) is None:
        said = [f"data.sources.{name}.card" for name, source in sources.items() if source.card is not None]
        said += [f"data.sources.{name}.stranger" for name, source in sources.items() if source.stranger]
        said += ["data.slices"] if data.slices is not None else []
        said += ["train.cards"] if config.cards is not None else []
        if said:
            raise ConfigError(f"{said[0]} is for models with cards, as family: card makes them; leave it out")
        return []
    if config.trunk != "frozen":
        raise ConfigError(
            f"cards are read by a frozen trunk, and train.trunk is {config.trunk}; set it to frozen, or train the "
            f"trunk first, without cards"
        )
    if data.batches == "mixed" and len(sources) > 1:
        raise ConfigError(
            "a batch has one card, and data.batches: mixed mixes the tasks of several sources; set it to one_source"
        )
    if all(source.stranger for source in sources.values()):
        raise ConfigError("every source is a stranger, so there is no task to learn; leave stranger out of one")
    gate = getattr(getattr(card_head(retriever), "config", None), "gate", True)
    if not gate and any(source.stranger for source in sources.values()):
        raise ConfigError("strangers teach confidence, and model.card.gate is false; leave stranger out, or set gate")
    return [
        Task(_card_of_source(name, source, training_set, origin, seed=config.seed), origin, source.stranger)
        for origin, (name, source) in enumerate(sources.items())
    ]


def _card_of_source(name: str, source: SourceConfig, training_set: TrainingSet, origin: int, *, seed: int) -> Card:
    given = source.card
    if given is None:
        template = name in hydra_templates()
        words = f"Find the documents of {name} that are relevant to its queries"
        card = hydra_card(name) if template else Card(name=name, description=words)
    elif isinstance(given, str):
        card = read_card(expanded(given))
    else:
        card = Card.from_mapping({"name": name, **given}, source=f"data.sources.{name}.card")
    if card.query_examples or card.doc_examples or card.judged:
        return card
    examples = [example for example in training_set.examples if example.source == origin]
    return with_examples(card, training_set, examples, seed=seed)


def with_examples(card: Card, training_set: TrainingSet, examples: Sequence[Example], *, seed: int) -> Card:
    """Return a card with queries and documents of training examples, drawn by seed, in place of its own."""
    draw = random.Random(f"{seed}-{card.name}")
    chosen = draw.sample(examples, min(len(examples), _WRITTEN_QUERIES))
    queries = dict.fromkeys(example.query for example in chosen)
    numbers = dict.fromkeys(draw.choice(example.positives) for example in chosen if example.positives)
    return _filled(card, list(queries), [training_set.documents[number] for number in [*numbers][:_WRITTEN_DOCUMENTS]])


def _filled(card: Card, queries: Sequence[str], documents: Sequence[str]) -> Card:
    texts = {"query_examples": queries, "doc_examples": documents}
    cut = {name: tuple(text[:_LONGEST_EXAMPLE] for text in own if text) for name, own in texts.items()}
    return card.model_copy(update={**cut, "judged": ()})


def generic_card() -> Card:
    """Return the card that says nothing about the task."""
    return Card(name="generic", description=GENERIC)


class CardDraws:
    """Draws the cards of batches; the same batch gets the same cards on every process and after a restart.

    Args:
        training_set: All examples.
        tasks: The task of each of its sources.
        config: How cards are drawn.
        wrong: Whether a loss reads queries under the card of another task.
        views: Whether a loss reads two cards of each of several tasks.
        seed: Seed of the examples that cards are made of.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        tasks: Sequence[Task],
        config: CardsConfig,
        *,
        wrong: bool = False,
        views: bool = False,
        seed: int = 0,
    ) -> None:
        self.tasks = tasks
        self._set = training_set
        self._config = config
        self._known = [place for place, task in enumerate(tasks) if not task.stranger]
        self._wrong = wrong and len(self._known) > 1
        self._views = views and len(self._known) > 1
        origins = defaultdict(list)
        for position, example in enumerate(training_set.examples):
            if position not in training_set.copies:
                origins[example.source].append(position)
        draw = random.Random(f"{seed}-cards")
        pool = {one for own in origins.values() for one in draw.sample(own, min(len(own), config.pool))}
        self._examples: list[list[Example]] = [[] for _ in tasks]
        for position, example in enumerate(training_set.examples):
            if training_set.copies.get(position, position) in pool:
                self._examples[example.source].append(example)

    def __call__(self, drawn: Sequence[Drawn]) -> BatchCards:
        """Draw the cards of a batch.

        Args:
            drawn: Its examples, at least one, all of one task.

        Returns:
            The cards. None that is made of examples of the task has a query of the batch, or a document that is an
            item of one of its queries or relevant to one.

        Raises:
            InputError: The examples are of several tasks.
        """
        sources = {example.source for example in drawn}
        if len(sources) > 1:
            names = ", ".join(self._set.sources[source] for source in sorted(sources))
            raise InputError(f"a batch has one card and is of several tasks: {names}; set data.batches to one_source")
        (source,) = sources
        draw = random.Random(f"cards-{drawn[0].draw}")
        kept_out = _texts_of(self._set, drawn)
        own = generic_card() if draw.random() < self._config.dropout else self._episode(source, draw, kept_out)
        if self.tasks[source].stranger:  # which the losses of cards are not about
            return {"own": own.to_json_text(), "stranger": True, "wrong": None, "views": []}
        wrong: Card | None = None
        if self._wrong and draw.random() < self._config.wrong:
            wrong = self._episode(self._other(source, draw), draw, kept_out)
        views: list[list[str]] = []
        if self._views:
            others = [place for place in self._known if place != source]
            shown = [source, *draw.sample(others, min(len(others), self._config.contrasted - 1))]
            views = [[self._episode(place, draw, kept_out).to_json_text() for _ in range(2)] for place in shown]
        return {
            "own": own.to_json_text(),
            "stranger": False,
            "wrong": None if wrong is None else wrong.to_json_text(),
            "views": views,
        }

    def whole(self) -> list[Card]:
        """Return cards that together hold every text of those that are drawn, and of the tasks' own."""
        known = [task.card for task in self.tasks]
        chosen = [example for own in self._examples for example in own]
        numbers = dict.fromkeys(number for example in chosen for number in example.positives)
        queries = [*(text for card in known for text in card.query_examples), *(example.query for example in chosen)]
        documents = [text for card in known for text in card.doc_examples]
        documents += [self._set.documents[number] for number in numbers]
        distinct = list(dict.fromkeys(queries)), list(dict.fromkeys(documents))
        parts = (slice(start, start + _MOST_EXAMPLES) for start in range(0, max(map(len, distinct)), _MOST_EXAMPLES))
        return [*known, *(_filled(generic_card(), *(texts[part] for texts in distinct)) for part in parts)][::-1]

    def _other(self, source: int, draw: random.Random) -> int:
        """Draw another task: of another source, if there is one, since slices of one source are alike."""
        others = [place for place in self._known if place != source]
        origin = self.tasks[source].origin
        return draw.choice([place for place in others if self.tasks[place].origin != origin] or others)

    def _episode(self, source: int, draw: random.Random, kept_out: frozenset[int] = frozenset()) -> Card:
        """Draw a card of a task, without texts whose keys are kept out."""
        card, config = self.tasks[source].card, self._config
        words = card.model_copy(update={"query_examples": (), "doc_examples": (), "judged": ()})
        style = draw.random()
        if style < config.without_examples:
            return words
        if config.support is None:
            queries, documents = _others(card.query_examples, kept_out), _others(card.doc_examples, kept_out)
        else:
            queries, documents = self._support(self._examples[source], draw, kept_out, *config.support)
        if not (queries or documents):
            return words
        if style < config.without_examples + config.without_description:
            words = generic_card().model_copy(update={"name": card.name})
        return _filled(words, queries, documents)

    def _support(
        self, examples: Sequence[Example], draw: random.Random, kept_out: frozenset[int], least: int, most: int
    ) -> tuple[list[str], list[str]]:
        count = draw.randint(least, most)
        queries: dict[int, str] = {}
        documents: dict[int, str] = {}
        # More than are wanted, since some may be kept out, or twice.
        for example in draw.sample(examples, min(len(examples), 2 * count + len(kept_out))):
            key = text_key(example.query)
            if key in kept_out or key in queries:
                continue
            queries[key] = example.query
            free = [number for number in example.positives if self._set.key(number) not in kept_out]
            if free:
                chosen = draw.choice(free)
                documents[self._set.key(chosen)] = self._set.documents[chosen]
            if len(queries) == count:
                break
        return list(queries.values()), list(documents.values())


def _others(texts: Sequence[str], kept_out: frozenset[int]) -> list[str]:
    return [text for text in texts if text_key(text) not in kept_out]


def _texts_of(training_set: TrainingSet, drawn: Sequence[Drawn]) -> frozenset[int]:
    """Return the keys of a batch's queries, of their items, and of all documents relevant to them."""
    numbers = {number for example in drawn for number in (*example.items, example.coarse) if number >= 0}
    for example in drawn:
        numbers |= training_set.spared(example.query)
    return frozenset((*map(training_set.key, numbers), *(text_key(example.query) for example in drawn)))


def dev_options(options: QueryOptions, card: Card | None) -> QueryOptions:
    """Return the options of a dev set: its own, with the card of the source of the same name unless it names one."""
    if card is None or options.card is not None:
        return options
    return QueryOptions(**{**options, "card": card.to_json_text()})


def held_out_sets(
    recipe: Recipe, retriever: Retriever, read: ReadSources, cards: Mapping[str, Card]
) -> dict[str, DevSet]:
    """Return the dev sets of held-out examples.

    Args:
        recipe: Says how many documents are searched.
        retriever: The model.
        read: Sources, whose examples were held out.
        cards: Cards by source; none for models without cards.

    Returns:
        One dev set, or with cards one for each source, asked with its card; none if nothing was held out.
    """
    if not read.held_out:
        return {}
    most, seed = recipe.validation.holdout_documents, recipe.train.seed
    if not cards:
        return {HOLDOUT: held_out_set(read, max_documents=most, seed=seed)}
    found = {}
    for position, (name, card) in enumerate(cards.items()):
        own = [example for example in read.held_out if example.source == position]
        if own:
            options = retriever.check_options(dev_options(NO_OPTIONS, card))
            of_source = replace(read, held_out=own)
            found[f"{HOLDOUT}: {name}"] = held_out_set(of_source, max_documents=most, seed=seed, options=options)
    return found


def read_from_caches(head: Any, sides: Mapping[Side, SideFeatures], cards: Sequence[Card]) -> None:
    """Let a head read the texts of cards from the caches of the trunk's vectors.

    Args:
        head: From `card_head`.
        sides: The frozen routes up to the head; without caches the head encodes texts itself.
        cards: Their texts are cached now, by all processes together; other texts when they are read, by the process
            that does.
    """
    caches = {side: features.cache for side, features in sides.items() if features.cache is not None}
    if len(caches) < len(sides):
        return

    def encode(texts: Sequence[str], side: Side) -> Tensor:
        caches[side].ensure(texts)
        return caches[side].vectors(texts)

    head.reads_texts(encode)
    for card in cards:
        head.card_features(card)
    head.reads_texts(lambda texts, side: caches[side].look_up(texts))
