"""The rows of the table of task cards: how each ranks the queries of a task, given judged pairs or none."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeAlias

import torch
from pydantic import Field, StringConstraints

from hyperseek._config import LARGEST_SEED, Config
from hyperseek._fingerprint import fingerprint_json
from hyperseek._relevance import is_relevant, text_key
from hyperseek.adapting import KINDS, Fits, Map, Material, adapt, towards
from hyperseek.cards import GENERIC, Card, JudgedPair, read_card
from hyperseek.data import open_dataset
from hyperseek.errors import DataError
from hyperseek.evaluation._measures import depth
from hyperseek.evaluation._ranking import describe_index
from hyperseek.evaluation.encoded_queries import EncodedQueries
from hyperseek.index import Index
from hyperseek.mining import BM25
from hyperseek.models import Retriever
from hyperseek.plan import Exhaustive, Feedback, Plan
from hyperseek.scoring import Points, Scorer
from hyperseek.types import Query, QueryOptions, Run

if TYPE_CHECKING:
    from hyperseek.data import Dataset

EXPONENTIAL = "nDCG(dcg='exp-log2')@10"
"""nDCG whose gain is 2 to the power of the grade, less 1."""

_FUSED = 100  # documents of each ranking that are fused
_RRF_K = 60
_WORDS_OF = 200  # documents whose words make random texts
_LONGEST = 100_000  # characters of a document in a card

_Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$", max_length=100)]


class CardTask(Config):
    """A task of the table.

    Attributes:
        index: Folder of the index of its documents, of the frozen trunk.
        dataset: Its collection, as `open_dataset` reads it.
        card: File of its card; what it has besides words is not used, since pairs are drawn.
        split: Split whose queries are measured.
        pairs: Split that judged pairs are drawn from; None for a drawn half of `split`, whose other half is measured.
        exclude_same_id: Leave out of a ranking the document whose id is the query's.
        left_out: A model with cards that was trained without this task; None for none.
    """

    index: str
    dataset: str
    card: str
    split: str = "test"
    pairs: str | None = None
    exclude_same_id: bool = False
    left_out: str | None = None


class CardStudy(Config):
    """What `evaluate_cards` measures; the file of `hyperseek evaluate --cards`.

    Attributes:
        tasks: The tasks by name.
        model: A model with cards that was trained on these tasks; None leaves out the rows that need it.
        pairs: How many judged pairs rows are given that take any.
        seeds: How often pairs, other cards and random texts are drawn.
        rows: Names of `card_rows()`; None for all but the slow one, `lora`.
        measures: The first is the one that is read first.
        max_queries: Measure at most this many queries of a task, drawn; None for all.
        seed: Seed of halves and samples.
    """

    tasks: dict[_Name, CardTask] = Field(min_length=1)
    model: str | None = None
    pairs: tuple[Annotated[int, Field(ge=2, le=1000)], ...] = (5, 20, 100)
    seeds: int = Field(default=5, ge=1, le=1000)
    rows: tuple[str, ...] | None = None
    measures: tuple[str, ...] = ("nDCG@10", EXPONENTIAL)
    max_queries: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)


class Pair(NamedTuple):
    """A judged pair."""

    query: Query
    document: str
    grade: int


@dataclass
class Draw:
    """What a row is given for one ranking: pairs, a seed, and the model with cards that it may use."""

    pairs: Sequence[Pair] = ()
    seed: int = 0
    model: Retriever | None = None
    seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the block as the time that fitting to the task takes."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


@dataclass(eq=False)
class Session:
    """A task while it is measured."""

    name: str
    task: CardTask
    study: CardStudy
    measures: Sequence[str]
    others: list[Session] = field(default_factory=list)
    _encoded: tuple[Retriever, EncodedQueries] | None = None

    def __post_init__(self) -> None:
        self.index = Index.open(self.task.index)
        self.dataset: Dataset = open_dataset(self.task.dataset)
        card = read_card(self.task.card)
        self.card = card.model_copy(update={"query_examples": (), "doc_examples": (), "judged": ()})
        judged = self.dataset.queries(self.task.split)
        draw = random.Random(f"{self.study.seed} {self.name}")
        apart = {text_key(query.text) for query in judged}
        if self.task.pairs is None:
            keys = sorted(apart)
            draw.shuffle(keys)
            apart = set(keys[: -(-len(keys) // 2)])
            pool, self._grades = judged, self.dataset.qrels(self.task.split)
        else:
            pool, self._grades = self.dataset.queries(self.task.pairs), self.dataset.qrels(self.task.pairs)
        # A query with the text of one that is measured would give it away.
        self.pool = [query for query in pool if text_key(query.text) not in apart]
        measured = [query for query in judged if text_key(query.text) in apart]
        if self.study.max_queries is not None and len(measured) > self.study.max_queries:
            kept = {query.id for query in draw.sample(measured, self.study.max_queries)}
            measured = [query for query in measured if query.id in kept]
        grades = self.dataset.qrels(self.task.split)
        self.queries = [query for query in measured if query.id in grades]
        if not self.queries:
            raise DataError(f"no query of {self.name} is left to measure in the split {self.task.split!r}")
        self.qrels = {query.id: grades[query.id] for query in self.queries}

    @cached_property
    def fingerprint(self) -> str:
        """Identifies what is measured here, whatever the row."""
        own = self.task.model_dump(exclude={"index", "dataset", "card", "left_out"})
        asked = [query.id for query in self.queries]
        return fingerprint_json(
            [own, describe_index(self.index), self.dataset.fingerprint(), self.card.fingerprint, list(self.measures),
             asked, [query.id for query in self.pool], self.index.model.protocol()["query_fingerprint"]]
        )  # fmt: skip

    def drawn(self, count: int, seed: int) -> list[Pair]:
        """Draw pairs: of each query one relevant document, and further ones once each query has had its turn."""
        draw = random.Random(f"{self.study.seed} {self.name} {seed}")
        known = set(self.index.ids)
        own = []
        for query in self.pool:
            relevant = [
                Pair(query, name, grade)
                for name, grade in self._grades.get(query.id, {}).items()
                if is_relevant(grade) and name in known
            ]
            own.append(draw.sample(relevant, len(relevant)))
        draw.shuffle(own)
        turns = max(map(len, own), default=0)
        return [pairs[turn] for turn in range(turns) for pairs in own if turn < len(pairs)][:count]

    @cached_property
    def available(self) -> int:
        """How many pairs can be drawn, up to the most that are asked for."""
        return len(self.drawn(max(self.study.pairs, default=0), 0))

    @cached_property
    def asked(self) -> Scorer:
        """The queries, compiled by the frozen model of the index."""
        return EncodedQueries(self.index.model, [query.text for query in self.queries]).scorer()

    def encoded(self, model: Retriever) -> EncodedQueries:
        """Return the queries as a model with cards reads them, once."""
        if self._encoded is None or self._encoded[0] is not model:
            self._encoded = model, EncodedQueries(model, [query.text for query in self.queries])
        return self._encoded[1]

    def release(self) -> None:
        """Forget what only this task's own rows need."""
        self._encoded = None
        for name in ("asked", "bm25", "_material"):
            self.__dict__.pop(name, None)
        self.index = Index.open(self.task.index)

    def search(self, scorer: Scorer, *, k: int | None = None, plan: Plan | None = None) -> Run:
        """Rank the documents, exhaustively unless a plan says otherwise."""
        return self.index.run(
            self.queries,
            k=k or depth(self.measures),
            scorer=scorer,
            engine="exact",
            plan=plan,
            exclude_same_id=self.task.exclude_same_id,
        )

    @cached_property
    def bm25(self) -> Run:
        """The rankings of BM25."""
        ranker = BM25(self.dataset.documents(), total=self.dataset.count())
        return ranker.run(self.queries, k=max(_FUSED, depth(self.measures)), exclude_same_id=self.task.exclude_same_id)

    def with_pairs(self, pairs: Sequence[Pair]) -> Card:
        """Return the card with judged pairs."""
        documents = self.index.get(list(dict.fromkeys(pair.document for pair in pairs)))
        judged = tuple(
            JudgedPair(
                query=pair.query.text, document=documents[pair.document].full_text[:_LONGEST] or " ",
                grade=min(pair.grade, 1000),
            )
            for pair in pairs
        )  # fmt: skip
        return self.card.model_copy(update={"judged": judged})

    @cached_property
    def words(self) -> list[str]:
        """Words of the first documents."""
        return [word for document in islice(self.index.documents(), _WORDS_OF) for word in document.full_text.split()]

    @cached_property
    def _material(self) -> Material:
        ids: list[str] = []
        chunks: list[Points] = []
        for names, points in self.index.points():
            ids += names
            chunks.append(points)
        self._places = {name: row for row, name in enumerate(ids)}
        documents = type(chunks[0]).concatenate(chunks)
        return Material(self.index.model, self.index.space, documents, [], torch.empty(0), [])

    def material(self, pairs: Sequence[Pair]) -> tuple[Material, list[int], list[int]]:
        """Return what heads are fitted on, the rows of the drawn queries in it, and those of the measured ones."""
        base = self._material
        fitted: dict[str, dict[int, float]] = {}
        for pair in pairs:
            fitted.setdefault(pair.query.text, {})[self._places[pair.document]] = float(pair.grade)
        texts = [*fitted, *(query.text for query in self.queries)]
        vectors = torch.cat([_vectors(EncodedQueries(self.index.model, list(fitted)).scorer()), _vectors(self.asked)])
        grades: list[dict[int, float]] = [*fitted.values(), *({} for _ in self.queries)]
        material = replace(base, texts=texts, queries=base.space.canonical(vectors), grades=grades)
        return material, list(range(len(fitted))), list(range(len(fitted), len(texts)))


def _vectors(scorer: Scorer) -> torch.Tensor:
    vectors = scorer.linear()
    assert vectors is not None  # flat spaces alone get here
    return vectors.detach().float().cpu().clone()


def _frozen(session: Session, draw: Draw) -> Run:
    return session.search(session.asked)


def _feedback(session: Session, draw: Draw) -> Run:
    return session.search(session.asked, plan=Exhaustive() >> Feedback())


def _bm25(session: Session, draw: Draw) -> Run:
    return session.bm25


def _rrf(session: Session, draw: Draw) -> Run:
    rankings = session.search(session.asked, k=_FUSED), session.bm25
    fused: Run = {}
    for query in session.queries:
        own: dict[str, float] = {}
        for ranking in rankings:
            for rank, name in enumerate(islice(ranking.get(query.id, {}), _FUSED), start=1):
                own[name] = own.get(name, 0.0) + 1 / (_RRF_K + rank)
        fused[query.id] = own
    return fused


def _described(session: Session, draw: Draw) -> Run:
    texts = [f"{session.card.description} {query.text}" for query in session.queries]
    return session.search(EncodedQueries(session.index.model, texts).scorer())


def _rocchio(session: Session, draw: Draw) -> Run:
    material, fitted, measured = session.material(draw.pairs)
    with draw.timed():
        rows = sorted({row for place in fitted for row in material.relevant(place)})
        shift = towards(material, material.documents[torch.tensor(rows)].rows)
        head = Map(torch.eye(len(shift)), shift)
    return session.search(head.scorer(material, measured, 1.0))


def _fitted(kind: str) -> Callable[[Session, Draw], Run]:
    def rank(session: Session, draw: Draw) -> Run:
        material, fitted, measured = session.material(draw.pairs)
        with draw.timed():
            head = KINDS[kind](material, fitted, Fits(seed=draw.seed))
        return session.search(head.scorer(material, measured, 1.0))

    return rank


def _adapted(session: Session, draw: Draw) -> Run:
    return _adapt(session, session.index, draw)


def _adapted_from_card(session: Session, draw: Draw) -> Run:
    return _adapt(session, Index.open(session.task.index, model=draw.model), draw)


def _adapt(session: Session, index: Index, draw: Draw) -> Run:
    judged: dict[str, dict[str, float]] = {}
    for pair in draw.pairs:
        judged.setdefault(pair.query.text, {})[pair.document] = float(pair.grade)
    with draw.timed():
        adaptation = adapt(index, judged, card=session.card, seed=draw.seed)
    texts = [query.text for query in session.queries]
    return session.search(EncodedQueries(adaptation.model, texts).scorer(), plan=adaptation.plan)


def _under(session: Session, draw: Draw, card: Card) -> Run:
    assert draw.model is not None
    encoded = session.encoded(draw.model)
    with draw.timed():
        scorer = encoded.scorer(QueryOptions(card=card))
    return session.search(scorer)


def _card(session: Session, draw: Draw) -> Run:
    return _under(session, draw, session.with_pairs(draw.pairs))


def _other_card(session: Session, draw: Draw) -> Run:
    order = random.Random(f"{session.study.seed} {session.name} other").sample(session.others, len(session.others))
    other = order[draw.seed % len(order)]
    return _under(session, draw, other.with_pairs(other.drawn(len(draw.pairs), draw.seed)))


def _random_text(session: Session, draw: Draw) -> Run:
    chooses = random.Random(f"{session.study.seed} {session.name} {draw.seed} words")
    words = [word for other in session.others or [session] for word in other.words] or ["nothing"]
    text = " ".join(chooses.choice(words) for _ in session.card.about.split())
    return _under(session, draw, Card(name="random", description=text[:10_000]))


def _generic(session: Session, draw: Draw) -> Run:
    return _under(session, draw, Card(name="generic", description=GENERIC))


@dataclass(frozen=True)
class Row:
    """How a row ranks: whether it takes pairs (or, None, both takes and does without), and what it needs."""

    rank: Callable[[Session, Draw], Run]
    pairs: bool | None = False
    drawn: bool = False
    card: bool = False
    fits: bool = False
    slow: bool = False


ROWS: Mapping[str, Row] = {
    "frozen": Row(_frozen),
    "feedback": Row(_feedback),
    "BM25": Row(_bm25),
    "dense + BM25": Row(_rrf),
    "description + query": Row(_described),
    "Rocchio": Row(_rocchio, pairs=True, drawn=True, fits=True),
    "linear adapter": Row(_fitted("ridge"), pairs=True, drawn=True, fits=True),
    "lora": Row(_fitted("lora"), pairs=True, drawn=True, fits=True, slow=True),
    "adapt": Row(_adapted, pairs=True, drawn=True, fits=True),
    "adapt from card": Row(_adapted_from_card, pairs=True, drawn=True, card=True, fits=True),
    "card": Row(_card, card=True),
    "card with pairs": Row(_card, pairs=True, drawn=True, card=True),
    "another task's card": Row(_other_card, pairs=None, drawn=True, card=True),
    "random text": Row(_random_text, drawn=True, card=True),
    "generic card": Row(_generic, card=True),
}


def card_rows() -> list[str]:
    """Return the names of the rows of `evaluate_cards`, in order."""
    return list(ROWS)
