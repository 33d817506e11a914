"""Scorer: the form that a batch of queries is compiled to; and the scorer of bi-encoders, where a query is a point."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hyperseek._bounded import check_plain
from hyperseek._files import read_tensors, reading, write_tensors
from hyperseek._machine import check_device
from hyperseek._registry import Registry
from hyperseek.errors import InputError, ModelError
from hyperseek.scoring._geometries import Chart, checked_level
from hyperseek.scoring._points import Points, own_vectors
from hyperseek.scoring._space import Space
from hyperseek.types import NO_OPTIONS, QueryOptions


class Scorer(ABC):
    """`Q` compiled queries that score points. Scores are float32 and higher is better.

    A scorer consists of tensors and a small JSON configuration, so slicing, joining, moving and saving are written
    here, once. The first axis of every tensor is the query. A subclass sets `kind`, and is registered under it by
    `register_scorer`, so that saved files can be loaded.

    Attributes:
        options: The options that the queries were compiled with.
        points: Whether queries are points, whose own documents are scored together sooner than query by query.
        surrogates: Whether a search without a suitable engine tries a linear surrogate before it scores all documents.
    """

    kind: ClassVar[str]
    points: ClassVar[bool] = False
    surrogates: ClassVar[bool] = True
    space: Space
    options: QueryOptions = NO_OPTIONS

    @abstractmethod
    def score(self, points: Points) -> Tensor:
        """Score every point with every query.

        Args:
            points: `N` documents on the scorer's device.

        Returns:
            `(Q, N)` float32; higher is better. Differentiable where the tensors are.
        """

    @abstractmethod
    def score_own(self, documents: Tensor | Points) -> Tensor:
        """Score each query's own documents, as reranking and losses on a query's own items need.

        Args:
            documents: `Q * n` points, those of the first query first; where documents have one vector each also
                `(Q, n, w)`.

        Returns:
            `(Q, n)` float32.
        """

    @abstractmethod
    def linear(self) -> Tensor | None:
        """Return `(Q, d)` query vectors for the charts of `space` if the score is linear there, else None."""

    def shortened(self, dimension: int) -> Scorer:
        """Return the queries cut to the first dimensions of their space, for documents that are cut the same way.

        Args:
            dimension: At least 1, at most the space's.

        Returns:
            The same queries in `space.shortened(dimension)`.

        Raises:
            InputError: The queries are not points, or have fewer dimensions.
        """
        raise InputError(f"only queries that are points can be cut to {dimension} dimensions, not {self.kind!r} ones")

    def asked_with(self, options: QueryOptions) -> Scorer | None:
        """Return the same queries asked with other options, if that takes no model.

        Args:
            options: All options of the new queries.

        Returns:
            The queries, or None if they must be compiled again.

        Raises:
            InputError: An option is out of range.
        """
        return self if options == self.options else None

    def at(self, *, level: int | None = None, document_level: int | None = None) -> Scorer:
        """Return the same queries at other levels.

        Args:
            level: Level of the queries, 1 to `space.levels`; None for the last.
            document_level: Level of the documents; None for `level`.

        Returns:
            The queries; themselves where the space has one level.

        Raises:
            InputError: There is no such level, or these queries cannot choose among those of their space.
        """
        if self.space.levels > 1:
            raise InputError(f"{self.kind!r} scorers of a {self.space.kind!r} space cannot choose among its levels")
        for asked in (level, document_level):
            checked_level(asked, self.space.levels)
        return self

    def retrieving(self, top_k: int) -> Scorer:
        """Return the queries as an `XTRScorer`, whose tokens see the most similar document tokens alone.

        Args:
            top_k: How many of all documents that are scored together, at least 1.

        Returns:
            The same queries.

        Raises:
            InputError: The queries are not sets of token vectors.
        """
        raise InputError(f"only queries of token vectors retrieve {top_k} document tokens each, not {self.kind!r} ones")

    def moved_towards(self, documents: Points, weights: Tensor) -> Scorer:
        """Return the queries moved towards documents of their own, as feedback does.

        Args:
            documents: `Q * n` documents, those of the first query first; `n` is at least 1.
            weights: `(Q, n)`, at least 0: the share of the way that each document stands for. Each query's sum to less
                than 1, and a query whose sum is 0 stays as it is.

        Returns:
            Queries of the same kind and options.

        Raises:
            InputError: Nothing is known of these queries that could be moved.
        """
        raise InputError(
            f"queries of the kind {self.kind!r} cannot be moved towards documents, since nothing is known of how they "
            f"score; leave the stage feedback out, or give their class the method moved_towards"
        )

    def lift(self, chart: Chart) -> Tensor | None:
        """Return `(Q, e)` queries with which an engine on a chart finds this scorer's candidates.

        Args:
            chart: A chart of the scorer's space.

        Returns:
            The queries, or None if that chart cannot be searched by this score; `surrogate` makes a scorer for it.
        """
        vectors = self.linear()
        return None if vectors is None else chart.lift_queries(vectors.float())

    @property
    def chart_parameters(self) -> Mapping[str, Any]:
        """Parameters of the charts of the space that show what the score compares."""
        return {}

    def narrowed(self) -> tuple[Scorer, Callable[[Points], Points]] | None:
        """Return a scorer that reads only a part of stored points, with the same scores, and what takes that part.

        Returns:
            The scorer, and a function of points that copies no numbers. None if all of a point is read.
        """
        return None

    def token_vectors(self) -> tuple[Tensor, Tensor] | None:
        """Return `(Q, t, d)` query tokens and their `(Q, t)` weights, 0 for none; None where queries are no sets."""
        return None

    def matches(self, document: Points) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return what each query token found in a document, where the score is a sum over query tokens.

        Args:
            document: One.

        Returns:
            `(Q, t)` each: the row of the document that is most similar to the query's token, -1 for none; their
            similarity; and its part of the score. None where queries are no sets.
        """
        return None

    def lift_within(self, chart: Chart, scores: Tensor) -> Tensor | None:
        """Return queries with which an engine on a chart that distorts distances finds all documents of some score.

        Args:
            chart: A chart of the scorer's space.
            scores: `(Q,)`: the least score of the wanted documents, per query.

        Returns:
            `(Q, e)` queries whose nearest documents are those. None if the queries of `lift` serve, or no queries do.
        """
        vectors = self.linear()
        if vectors is None or chart.lift_within is None:
            return None
        return chart.lift_within(vectors.float(), scores.to(vectors.device))

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return everything that belongs to the queries; the first axis of each tensor is `Q`."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return everything else, as plain JSON values."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make a scorer from what `tensors` and `config` returned."""

    def __len__(self) -> int:
        return next(iter(self.tensors().values())).shape[0]

    def __repr__(self) -> str:
        queries = "1 query" if len(self) == 1 else f"{len(self):,} queries"
        return f"{type(self).__name__}({queries} for {self.space}, {self.device})"

    def __getitem__(self, index: slice | Tensor) -> Self:
        return self._map(lambda tensor: tensor[index])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter(self.tensors().values())).device

    def to(self, device: str | torch.device) -> Self:
        """Return the scorer on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def detach(self) -> Self:
        """Return the scorer cut from the graph that computed it."""
        return self._map(lambda tensor: tensor.detach())

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join scorers of one kind and configuration, in order.

        Args:
            parts: At least one.

        Returns:
            All queries in one scorer.

        Raises:
            InputError: `parts` is empty or the configurations differ.
        """
        if not parts:
            raise InputError("there are no scorers to join; give at least one")
        first = parts[0]
        for part in parts[1:]:
            if type(part) is not type(first) or part.config() != first.config():
                raise InputError(f"cannot join scorers that differ: {first.config()} and {part.config()}")
            if part.options != first.options:
                raise InputError(f"cannot join queries with different options: {first.options!r} and {part.options!r}")
        names = first.tensors()
        joined = {name: torch.cat([part.tensors()[name] for part in parts]) for name in names}
        return first._with(joined)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the scorer to a safetensors file with its checksum, atomically.

        Args:
            path: The file.

        Raises:
            InputError: The scorer's class is not registered, so the file could not be read again.
        """
        if SCORERS.get(self.kind) is not type(self):
            raise InputError(
                f"a {type(self).__name__} cannot be saved, since no file of the kind {self.kind!r} would be read as "
                f"one; register the class: register_scorer({self.kind!r}, {type(self).__name__})"
            )
        metadata = {"hyperseek_scorer": self.kind, "config": json.dumps(self.config())}
        if self.options:
            metadata["options"] = json.dumps(self.options.to_json())
        write_tensors(path, self.tensors(), metadata)

    def with_options(self, options: QueryOptions) -> Self:
        """Record the options that the queries were compiled with, and return the scorer itself."""
        self.options = options
        return self

    def _map(self, function: Any) -> Self:
        changed = {name: function(tensor) for name, tensor in self.tensors().items()}
        return self._with(changed)

    def _with(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return a scorer like this one for other queries."""
        return self.from_tensors(tensors, self.config()).with_options(self.options)


def _check_scorer(name: str, value: Any) -> None:
    if not isinstance(value, type) or not issubclass(value, Scorer) or getattr(value, "kind", None) != name:
        raise InputError(f"a scorer is registered as a class that extends Scorer and has the kind {name!r}")


SCORERS: Registry[type[Scorer]] = Registry(
    "scorer",
    "hyperseek.scorers",
    {
        "card": "hyperseek.scoring._functions:CardScorer",
        "function": "hyperseek.scoring._functions:FunctionScorer",
        "level": "hyperseek.scoring._levels:LevelScorer",
        "linear": "hyperseek.scoring._scorer:LinearScorer",
        "maxsim": "hyperseek.scoring._maxsim:MaxSimScorer",
        "onnx": "hyperseek.scoring._functions:OnnxScorer",
        "qnet": "hyperseek.scoring._qnet:QNetScorer",
        "surrogate": "hyperseek.scoring._functions:SurrogateScorer",
        "xtr": "hyperseek.scoring._maxsim:XTRScorer",
    },
    check=_check_scorer,
)
"""The scorers by kind; `register_scorer` and entry points of `hyperseek.scorers` add more."""


def register_scorer(kind: str, scorer: type[Scorer] | None = None) -> Any:
    """Register a scorer class of yours, so that `load_scorer` can read its files.

    Args:
        kind: The class's `kind`.
        scorer: The class; None to use the result as a decorator.

    Returns:
        The class, or a decorator.

    Raises:
        InputError: The name is taken, or the class is not a scorer of this kind.
    """
    return SCORERS.register(kind, scorer)


def load_scorer(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Scorer:
    """Read a scorer that `Scorer.save` wrote.

    Args:
        path: A safetensors file.
        device: Where to put the tensors.

    Returns:
        The scorer, of the class that wrote it.

    Raises:
        InputError: The device is not there.
        ModelError: The file is missing or damaged, or does not contain a scorer.
        UnknownNameError: The scorer is of an unknown kind.
    """
    remedy = "give a file that Scorer.save wrote"
    placed = check_device(device) or "cpu"
    tensors, metadata = read_tensors(path, "a saved scorer", device=placed, error=ModelError, remedy=remedy)
    kind = metadata.get("hyperseek_scorer")
    if kind is None:
        raise ModelError(f"{path} holds no scorer; {remedy}")
    saved = SCORERS[kind]
    with reading(path, "a saved scorer", error=ModelError, remedy=remedy):
        config = json.loads(metadata["config"])
        check_plain(config)
        options = json.loads(metadata.get("options", "{}"))
        check_plain(options)
        scorer = saved.from_tensors(tensors, config).with_options(QueryOptions.of(options))
        if any(len(tensor) != len(scorer) for tensor in scorer.tensors().values()):
            raise ValueError("its tensors are not of one number of queries")
    return scorer


def point_scorer(space: Space, queries: Tensor) -> Scorer:
    """Return the scorer of `(Q, w)` query points, as stored, of the kind that suits the space."""
    scorer: Any = SCORERS[space.geometry.scorer]
    made: Scorer = scorer(space, queries)
    return made


class LinearScorer(Scorer):
    """Queries as points, compared by the space's own similarity.

    Args:
        space: The geometry.
        queries: `(Q, w)` stored points, as `Space.canonical` makes them.
        factor: 0-dim; multiplies every score. Its value is 1, and it carries the gradient of a curvature in training;
            scorers that were sliced, moved or saved do not have it.

    Raises:
        InputError: The queries are not a floating tensor of the space's width.
    """

    kind = "linear"
    points = True

    def __init__(self, space: Space, queries: Tensor, *, factor: Tensor | None = None) -> None:
        space.check(queries)
        if queries.ndim != 2:
            raise InputError(f"queries must have the shape (queries, numbers), not {tuple(queries.shape)}")
        self.factor = factor
        self.space = space
        self.queries = queries

    def score(self, points: Points) -> Tensor:
        """Return `(Q, N)` similarities."""
        return self._scaled(self.space.score(self.queries, points))

    def score_own(self, documents: Tensor | Points) -> Tensor:
        """Return `(Q, n)` similarities of each query with its own documents: `(Q, n, w)`, or `Q * n` points."""
        return self._scaled(self.space.score_own(self.queries, own_vectors(documents, len(self))))

    def _scaled(self, scores: Tensor) -> Tensor:
        # A float64 score beyond float32's range becomes its largest number.
        largest = torch.finfo(torch.float32).max
        scores = scores if scores.dtype == torch.float32 else scores.clamp(-largest, largest).float()
        return scores if self.factor is None else scores * self.factor

    def linear(self) -> Tensor:
        """Return the queries themselves."""
        return self.queries

    def moved_towards(self, documents: Points, weights: Tensor) -> Self:
        """Return the query points moved as `Space.moved` does."""
        return self._with({"queries": self.space.moved(self.queries, own_vectors(documents, len(self)), weights)})

    def shortened(self, dimension: int) -> LinearScorer:
        """Return the queries cut to the first dimensions of their space."""
        queries = self.space.shorten(self.queries, dimension)
        return LinearScorer(self.space.shortened(dimension), queries, factor=self.factor)

    def tensors(self) -> dict[str, Tensor]:
        """Return `queries`."""
        return {"queries": self.queries}

    def config(self) -> dict[str, Any]:
        """Return the space."""
        return {"space": self.space.to_json()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from `queries` and the space."""
        return cls(Space.from_json(config["space"]), tensors["queries"])
