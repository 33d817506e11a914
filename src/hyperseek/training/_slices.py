"""Slices: parts of the sources as tasks of their own, for models with cards.

A few sources teach a model little about how tasks differ. What is similar within a source, by its queries, by its
documents, by how hard it is, or by a branch of a hierarchy, is a task whose card can be drawn like that of a source.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from hyperseek._ancestors import Hierarchy
from hyperseek.data import Dataset, open_dataset
from hyperseek.data.hierarchy import hierarchy_of
from hyperseek.data.open import parse_source
from hyperseek.errors import ConfigError
from hyperseek.geometry.tokens import k_means_labels
from hyperseek.mining import BM25
from hyperseek.models import Retriever
from hyperseek.models.retriever import Side
from hyperseek.runs.recipe import expanded
from hyperseek.runs.record import SourceUse
from hyperseek.training._cache import FeatureCache
from hyperseek.training._cards import Task, with_examples
from hyperseek.training._recipe import DataConfig, Recipe, SlicesConfig, SourceConfig
from hyperseek.training._routes import base_stop
from hyperseek.training._training_data import ReadSources
from hyperseek.training._training_set import Example, TrainingSet
from hyperseek.types import Document

_RANKED = 100  # documents that BM25 ranks; a positive beyond counts as the hardest

Encode = Callable[[Sequence[str], Side], Tensor]
"""From texts of a side to `(N, d)` vectors."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Slice:
    name: str
    places: list[int]  # of examples, among those of the source
    about: str = ""  # what the card says besides the source's words


def add_slices(
    recipe: Recipe, retriever: Retriever, read: ReadSources, tasks: Sequence[Task], *, encodes: bool = True
) -> list[Task]:
    """Add the slices of a recipe to its training set, as sources after those it has, and to the uses of sources.

    Args:
        recipe: Says which slices are made.
        retriever: Encodes texts for clusters, once and for all: they are cached.
        read: The sources; changed in place.
        tasks: The task of each source.
        encodes: Whether texts are encoded; for forecasts clusters are of equal size instead.

    Returns:
        The tasks of the slices, in order; none if the recipe asks for none.

    Raises:
        ConfigError: Clusters are asked for without a cache, branches without a hierarchy, or all slices are too small.
    """
    config, wanted = recipe.train, recipe.data.slices
    if wanted is None:
        return []
    if (wanted.queries or wanted.documents) and not config.cache.enabled:
        raise ConfigError("data.slices clusters the vectors that train.cache keeps; set train.cache.enabled to true")

    if encodes and config.cache.indexes:  # before anything is encoded that they hold
        stop = base_stop(retriever.route("document"))
        FeatureCache.of(config.cache, retriever, "document", stop, tokens=False).adopt_indexes(config.cache)

    def encode(texts: Sequence[str], side: Side) -> Tensor:
        cache = FeatureCache.of(config.cache, retriever, side, base_stop(retriever.route(side)), tokens=False)
        cache.ensure(texts)
        return cache.vectors(texts)

    training_set = read.training_set
    identities = {number: name for entry in read.trained.values() for name, number in entry.relevant.items()}
    found = cut_slices(
        training_set,
        tasks,
        recipe.data,
        encode=encode if encodes else None,
        identities=identities,
        seed=config.seed,
    )
    counts = Counter(example.source for example in training_set.examples)
    for place in range(len(tasks), len(training_set.sources)):
        read.uses[training_set.sources[place]] = SourceUse(examples=counts[place])
    return found


def cut_slices(
    training_set: TrainingSet,
    tasks: Sequence[Task],
    config: DataConfig,
    *,
    encode: Encode | None,
    identities: Mapping[int, str],
    seed: int = 0,
) -> list[Task]:
    """Add slices to a training set; as `add_slices`.

    Args:
        training_set: The examples of all sources; changed in place.
        tasks: The task of each source.
        config: The sources, and which slices are made.
        encode: Encodes texts for clusters; None to cut examples in equal parts instead.
        identities: Ids of documents by number, for branches.
        seed: Seed of the examples on cards.

    Returns:
        The tasks of the slices, in order.

    Raises:
        ConfigError: Branches are asked for without a hierarchy, or all slices are too small.
    """
    wanted = config.slices
    if wanted is None:
        return []
    if wanted.branches and not any(source.options.qrels.hierarchy for source in config.sources.values()):
        raise ConfigError(
            "data.slices.branches cuts hierarchies, and no source has one; set options.qrels.hierarchy of a source"
        )
    by_source: dict[int, list[int]] = defaultdict(list)
    for position, example in enumerate(training_set.examples):
        if example.positives:
            by_source[example.source].append(position)
    found: list[Task] = []
    for (origin, task), source in zip(enumerate(tasks), config.sources.values(), strict=True):
        positions = by_source[origin]
        if len(positions) < 2 * wanted.least:
            continue
        examples = [training_set.examples[position] for position in positions]
        for part in _slices(training_set, examples, source, wanted, encode, identities):
            if not wanted.least <= len(part.places) < len(examples):
                continue
            name = f"{training_set.sources[origin]}: {part.name}"
            description = f"{task.card.description}\n{part.about}".strip()
            card = task.card.model_copy(update={"name": name[:200], "description": description[:10_000]})
            source_place = training_set.add_source(name)
            own = [replace(examples[place], source=source_place) for place in part.places]
            for place, example in zip(part.places, own, strict=True):
                training_set.copies[len(training_set)] = positions[place]
                training_set.add(example)
            found.append(Task(with_examples(card, training_set, own, seed=seed), origin, task.stranger))
    if not found:
        raise ConfigError(f"data.slices: no slice has {wanted.least} examples; lower least, or leave slices out")
    logger.info("%d slices of %d sources are tasks of their own", len(found), len(tasks))
    return found


def _slices(
    training_set: TrainingSet,
    examples: Sequence[Example],
    source: SourceConfig,
    wanted: SlicesConfig,
    encode: Encode | None,
    identities: Mapping[int, str],
) -> Iterator[_Slice]:
    texts: dict[Side, list[str]] = {
        "query": [example.query for example in examples],
        "document": [training_set.documents[example.positives[0]] for example in examples],
    }
    counts: dict[Side, int] = {"query": wanted.queries, "document": wanted.documents}
    for side, count in counts.items():
        if count > 1:
            labels = [place % count for place in range(len(examples))]
            if encode is not None:
                labels = k_means_labels(encode(texts[side], side), min(count, len(examples))).tolist()
            yield from _grouped(f"{side} cluster", labels)
    if wanted.difficulty > 1:
        yield from _grouped("difficulty", _bands(training_set, examples, wanted.difficulty))
    if wanted.branches > 1 and source.options.qrels.hierarchy is not None:
        yield from _branches(examples, source, wanted.branches, identities)


def _grouped(title: str, labels: Sequence[int]) -> Iterator[_Slice]:
    for label in sorted(set(labels)):
        yield _Slice(f"{title} {label + 1}", [place for place, of_it in enumerate(labels) if of_it == label])


def _bands(training_set: TrainingSet, examples: Sequence[Example], count: int) -> list[int]:
    """Return the band of each example, 0 the easiest."""
    taught = [_lead(example) for example in examples]
    ease = [lead for lead in taught if lead is not None]
    if len(ease) < len(examples):
        ease = [-rank for rank in _ranks(training_set, examples)]
    order = sorted(range(len(examples)), key=lambda place: -ease[place])
    bands = [0] * len(examples)
    for rank, place in enumerate(order):
        bands[place] = rank * count // len(order)
    return bands


def _lead(example: Example) -> float | None:
    """Return by how much a teacher scores the first positive above the best negative; None without these scores."""
    others = [example.scores[number] for number in example.negatives if number in example.scores]
    first = example.scores.get(example.positives[0])
    return None if first is None or not others else first - max(others)


def _ranks(training_set: TrainingSet, examples: Sequence[Example]) -> list[int]:
    """Return BM25's rank of each example's first positive, among the documents of all of them."""
    numbers = dict.fromkeys(number for example in examples for number in (*example.positives, *example.negatives))
    bm25 = BM25([Document(str(number), training_set.documents[number]) for number in numbers])
    queries = {str(place): example.query for place, example in enumerate(examples)}
    ranking = bm25.run(queries, k=_RANKED)
    found = []
    for place, example in enumerate(examples):
        ranked = list(ranking[str(place)])
        first = str(example.positives[0])
        found.append(ranked.index(first) if first in ranked else _RANKED)
    return found


def _branches(
    examples: Sequence[Example], source: SourceConfig, count: int, identities: Mapping[int, str]
) -> Iterator[_Slice]:
    parsed = parse_source(expanded(source.source))
    dataset = open_dataset(parsed.place, name=parsed.name)
    nodes = [[identities[number] for number in example.positives if number in identities] for example in examples]
    asked = {node for own in nodes for node in own}
    hierarchy = hierarchy_of(dataset, source.options.qrels.hierarchy or "", asked)
    chosen = branches_of(hierarchy, nodes, count)
    titles = _titles(dataset, {branch for branch in chosen if branch is not None})
    for branch in dict.fromkeys(chosen):
        if branch is not None:
            own = [place for place, of_it in enumerate(chosen) if of_it == branch]
            title = titles.get(branch, branch)
            yield _Slice(f"branch {title}"[:150], own, f"Of the branch: {title}"[:1000])


def branches_of(hierarchy: Hierarchy, nodes: Sequence[Sequence[str]], count: int) -> list[str | None]:
    """Choose branches of a hierarchy that hold examples.

    Args:
        hierarchy: The hierarchy.
        nodes: For each example its nodes; the deepest says where it is.
        count: How many branches are wanted, at least 1.

    Returns:
        For each example its branch, the id of a node at or above it; None where none of its nodes is known. There are
        more than `count` branches if there are more roots, or the last one cut lies above many.
    """
    paths: list[list[str]] = []
    for own in nodes:
        known = [node for node in own if node in hierarchy.depths]
        deepest = max(known, key=lambda node: hierarchy.depths[node], default=None)
        paths.append([] if deepest is None else [deepest, *hierarchy.path(deepest)][::-1])
    chosen = [path[0] if path else None for path in paths]
    whole: set[str] = set()  # branches that hold examples of a single node
    while True:
        sizes = Counter(branch for branch in chosen if branch is not None)
        open_ones = [(size, branch) for branch, size in sizes.items() if branch not in whole]
        if len(sizes) >= count or not open_ones:
            return chosen
        _, largest = max(open_ones)
        cut = [
            path[min(path.index(largest) + 1, len(path) - 1)] if branch == largest else branch
            for path, branch in zip(paths, chosen, strict=True)
        ]
        if cut == chosen:
            whole.add(largest)
        chosen = cut


def _titles(dataset: Dataset, branches: set[str]) -> dict[str, str]:
    return {document.id: document.title or document.text for document in dataset.documents() if document.id in branches}


def repeats(training_set: TrainingSet, config: DataConfig) -> list[int]:
    """Return how often an epoch goes through each source, slices included.

    Args:
        training_set: All examples; slices come after the sources.
        config: Says what is balanced.

    Returns:
        A number of at least 1 for each source.
    """
    sizes = Counter(example.source for example in training_set.examples)
    whole, parts = range(len(config.sources)), range(len(config.sources), len(training_set.sources))
    times = [source.repeat for source in config.sources.values()] + [1] * len(parts)
    if not config.balance:
        return times
    for group in (whole, parts):
        largest = max((sizes[place] for place in group), default=0)
        for place in group:
            times[place] = max(1, round(times[place] * (largest / max(1, sizes[place])) ** config.balance))
    if parts and config.slices is not None:
        totals = [sum(times[place] * sizes[place] for place in group) for group in (whole, parts)]
        factor = config.slices.share / (1 - config.slices.share) * totals[0] / max(1, totals[1])
        more, by = (parts, factor) if factor > 1 else (whole, 1 / factor)
        for place in more:
            times[place] = max(1, round(times[place] * by))
    return times
