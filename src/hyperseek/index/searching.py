"""One search from queries to hits: compile, choose a plan, run it group by group, leave out what is excluded."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hyperseek._display import ShowsStages
from hyperseek._long_work import progress
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.index._arguments import (
    check_count,
    check_engine,
    check_excluded,
    check_options,
    check_queries,
    check_where,
)
from hyperseek.index._hits import AskedTokens, Matching, snippet_of
from hyperseek.index._passages import Combine, FoundDocument, Passages, as_passage, best_passage
from hyperseek.plan import AUTO, NOTHING, Candidates, OpenIndex, Plan, Search, StageReport, as_plan
from hyperseek.plan.exhaustive import exact_scores
from hyperseek.plan.stages import choose_plan
from hyperseek.scoring import Scorer, Space
from hyperseek.store.snapshot import Snapshot
from hyperseek.store.table import Store
from hyperseek.types import NO_OPTIONS, Document, Hit, Hits, QueryOptions

if TYPE_CHECKING:
    from hyperseek.models import Encoder, Retriever
    from hyperseek.models.light import LightCompiler


# Numbers of the queries that one scan holds: 16 MiB, some ten thousand query vectors. A q-net has more by itself.
_NUMBERS = 1 << 22

# Passages that are looked for at first, for each document, and how many times more where that was too few.
_PASSAGES = 4
_AGAIN = 4

_NONE = np.empty(0, np.int64)


@dataclass(slots=True)
class Explanation(ShowsStages):
    """What a search did, for people.

    Attributes:
        plan: What was run.
        reason: Why.
        stages: What each stage did, over all queries.
        documents: In the index.
        hits: What was found, for each query.
        passages: In the index; None for one of whole documents. Candidates of stages are passages, if there are any.
    """

    plan: Plan
    reason: str
    documents: int
    stages: list[StageReport] = field(default_factory=list)
    hits: list[Hits] = field(default_factory=list)
    passages: int | None = None


@dataclass(frozen=True)
class Request:
    """What to search for.

    Attributes:
        queries: Texts, or compiled queries.
        k: Documents of each.
        names: Ids of the queries, for messages; None where they have only places.
        texts: Of compiled queries, for stages that read them.
        exclude: For each query the ids of documents to leave out.
        engine: `AUTO`, `EXACT`, or the name of an engine.
        plan: What to run instead.
        where: SQL that documents must meet.
        options: That texts are compiled with.
        measure: Whether to search exhaustively too, and report each stage's recall.
        combine: What the score of a document of several passages is.
    """

    queries: Sequence[str] | Scorer
    k: int
    names: Sequence[str] | None = None
    texts: Sequence[str] | None = None
    exclude: Sequence[Collection[str]] | None = None
    engine: str = AUTO
    plan: Plan | None = None
    where: str | None = None
    options: QueryOptions = NO_OPTIONS
    measure: bool = False
    combine: Combine = "best"

    @classmethod
    def checked(cls, queries: object, k: object, **options: Any) -> Request:
        """Make a request from what a caller gave.

        Args:
            queries: As for a search: texts, or compiled queries.
            k: Documents of each.
            **options: The other attributes; `plan` may be anything that `as_plan` takes, and `named` are options that
                were given by name.

        Returns:
            The request.

        Raises:
            InputError: Something is of the wrong kind or out of range, a query is blank, or parts do not fit together.
            ConfigError: Something is wrong with the plan.
        """
        asked, names = check_queries(queries, options.get("names")), options.get("names")
        check_engine(options.get("engine", AUTO))
        check_where(options.get("where"))
        if options.get("combine", "best") not in get_args(Combine):
            raise UnknownNameError("way to combine passages", str(options["combine"]), get_args(Combine))
        if options.get("plan") is not None:
            options["plan"] = as_plan(options["plan"])
        asked, options["options"] = check_options(options.get("options"), asked, options.pop("named", None))
        exclude, texts = options.get("exclude"), options.get("texts")
        if exclude is not None:
            options["exclude"] = check_excluded(exclude)
        if texts is not None and options.get("plan") is not None:
            check_queries(texts, names)
        request = cls(asked, check_count(k), **options)
        for name, given in (("exclusions", request.exclude), ("texts", request.texts)):
            if given is not None and len(given) != len(asked):
                raise InputError(f"there are {len(asked)} queries and {len(given)} {name}; give one each")
        return request


def find(
    opened: OpenIndex,
    request: Request,
    groups: Callable[[Sequence[str], QueryOptions], Iterable[Scorer]],
    *,
    explanation: list[Explanation] | None = None,
    passages: Passages | None = None,
) -> Iterator[tuple[Scorer, Candidates]]:
    """Search, a group of queries at a time.

    Args:
        opened: The index.
        request: What to search for.
        groups: Compiles texts to scorers of successive queries.
        explanation: An empty list, to which what was done is added.
        passages: The documents that rows are passages of; None if they are whole.

    Yields:
        Successive queries, compiled, and their best rows: of passages as many as it takes for `k` documents.
    """
    most = max(1, len(opened.snapshot))
    unwanted = _rows_to_exclude(opened.snapshot, request.exclude or (), passages)
    wanted = request.k if passages is None else _PASSAGES * passages.wanted(request.k, request.combine)
    k = min(wanted + unwanted.shape[1], most)
    scorers: Iterable[Scorer] = (
        ([request.queries] if len(request.queries) else [])
        if isinstance(request.queries, Scorer)
        else groups(request.queries, request.options)
    )
    asked = request.texts if isinstance(request.queries, Scorer) else request.queries
    done = 0
    told: Explanation | None = None
    with progress("searching", len(request.queries), unit="queries") as bar:
        for scorer in scorers:
            check_points(scorer.space, opened.snapshot.space)
            if told is None:
                plan, reason = _choose(opened, scorer, request, k)
                told = Explanation(plan, reason, len(opened.snapshot))
                if passages is not None:
                    told.documents, told.passages = len(passages), told.documents
                if explanation is not None:
                    explanation.append(told)
            texts = None if asked is None else asked[done : done + len(scorer)]
            others = unwanted[done : done + len(scorer)] if unwanted.shape[1] else None
            search = Search(opened, scorer, texts, request.where, k, unwanted=others)
            opened.snapshot.load(scan=False)
            reports = None if explanation is None else told.stages
            found = told.plan.run(search, reports=reports, measure=request.measure)
            if others is not None:
                found = found.without(others)
            found = found.first(request.k) if passages is None else _enough(search, found, request, passages)
            yield scorer, found
            done += len(scorer)
            bar.advance(len(scorer))


def _choose(opened: OpenIndex, scorer: Scorer, request: Request, k: int) -> tuple[Plan, str]:
    if request.plan is not None:
        return request.plan, "the plan that was given"
    return choose_plan(opened, scorer, request.engine, k)


def _enough(search: Search, found: Candidates, request: Request, passages: Passages) -> Candidates:
    """Search again for more passages where the best ones are of fewer documents than are wanted."""
    opened, rows, scores = search.index, [*found.rows], [*found.scores]
    left, k, wanted = torch.arange(len(found)), search.k, passages.wanted(request.k, request.combine)
    while True:
        # A plan that finds fewer rows than it may has no more.
        ended = found.counts + (0 if search.unwanted is None else search.unwanted.shape[1]) < k
        lacking = passages.lacking(found, wanted) & ~ended
        if k >= len(opened.snapshot) or not lacking.any():
            return Candidates.of_lists(rows, scores)
        left, k = left[lacking], min(len(opened.snapshot), _AGAIN * k)
        texts = None if search.texts is None else [search.texts[place] for place in lacking.nonzero()[:, 0].tolist()]
        others = None if search.unwanted is None else search.unwanted[lacking]
        search = Search(opened, search.scorer[lacking], texts, request.where, k, unwanted=others)
        plan, _ = _choose(opened, search.scorer, request, k)
        found = plan.run(search)
        if others is not None:
            found = found.without(others)
        for place, own, their in zip(left.tolist(), found.rows, found.scores, strict=True):
            rows[place], scores[place] = own, their


def _rows_to_exclude(
    snapshot: Snapshot, exclude: Sequence[Collection[str]], passages: Passages | None = None
) -> Tensor:
    """Return `(Q, m)` rows of each query's excluded documents that are stored, padded with `NOTHING`."""
    if passages is not None:
        members = iter(passages.rows_of([name for ids in exclude for name in ids]))
        own = [torch.from_numpy(np.concatenate([_NONE, *islice(members, len(ids))])) for ids in exclude]
        return torch.nn.utils.rnn.pad_sequence(own, True, NOTHING) if own else torch.empty(0, 0, dtype=torch.int64)
    rows = torch.from_numpy(snapshot.rows_of_ids([name for ids in exclude for name in ids]))
    parts = [part[part != NOTHING] for part in torch.split(rows, [len(ids) for ids in exclude])]
    return torch.nn.utils.rnn.pad_sequence(parts, True, NOTHING) if parts else torch.empty(0, 0, dtype=torch.int64)


def hits_of(
    opened: OpenIndex,
    found: Iterable[tuple[Scorer, Candidates]],
    *,
    texts: bool,
    queries: Sequence[str] | None = None,
    model: Callable[[], Encoder | None] = lambda: None,
    encoded: Mapping[str, Any] | None = None,
    ranked: Callable[[Scorer, Candidates], list[list[FoundDocument]]] | None = None,
) -> Iterator[Hits]:
    """Turn candidates into hits.

    Args:
        opened: The index.
        found: What `find` yields.
        texts: Whether the hits carry their documents.
        queries: Texts of the queries, which matches name tokens by; None for none.
        model: Returns what splits texts into tokens, if anything does; asked only where queries have tokens.
        encoded: How documents were encoded, as keywords of `LateRetriever.row_tokens`.
        ranked: Ranks documents by the rows of their passages; None where rows are documents.

    Yields:
        The hits of each query.
    """
    snapshot, done = opened.snapshot, 0
    for scorer, part in found:
        if ranked is None:
            hits = _collect_hits(snapshot.store, snapshot.ids, part.scores, part.rows, texts=texts)
        else:
            documents = ranked(scorer, part)
            hits = _collect_passages(snapshot.store, documents, texts=texts)
            best = [torch.tensor([one.passages[0][0] for one in own], dtype=torch.int64) for own in documents]
            part = Candidates(torch.nn.utils.rnn.pad_sequence(best, True, NOTHING), part.scores)
        for place, own in enumerate(hits if texts else ()):
            excerpt = partial(snippet_of, None if queries is None else queries[done + place])
            for hit in own:
                hit.excerpted_by(excerpt)
        if scorer.token_vectors() is not None:
            reader = model()
            for place, (own, rows) in enumerate(zip(hits, part.rows.tolist(), strict=True)):
                text = None if queries is None else queries[done + place]
                asked = AskedTokens(scorer, place, text, reader, encoded or {})
                for hit, row in zip(own, (row for row in rows if row >= 0), strict=True):
                    hit.matched_by(Matching(asked, snapshot.store, row))
        done += len(part.rows)
        yield from map(Hits, hits)


def check_points(queries: Space, points: Space, source: str = "") -> None:
    """Raise InputError where queries are for points of another form than an index has.

    Args:
        queries: The space of the queries.
        points: That of the index.
        source: The model that made the index, for the message.
    """
    if (queries.levels, queries.width) != (points.levels, points.width):
        raise InputError(
            f"the queries are for points of {queries.dimension} dimensions{_levels(queries)}, but the index has "
            f"{points.dimension}{_levels(points)}; use the model of the index{f' ({source})' if source else ''}"
        )


def _levels(space: Space) -> str:
    return f" at each of {space.levels} levels" if space.levels > 1 else ""


def _collect_hits(store: Store, ids: Any, scores: Tensor, rows: Tensor, *, texts: bool) -> list[list[Hit]]:
    """Turn the result of a scan into hits; each document is read once, however many queries found it.

    Args:
        store: Where the documents are.
        ids: All ids, as `Store.ids` returns them.
        scores: `(Q, k)`, best first.
        rows: `(Q, k)`; below 0 where there is nothing.
        texts: Whether the hits carry their documents.

    Returns:
        The hits of each query.
    """
    found = np.unique(rows[rows >= 0].numpy())  # sorted
    names = ids.take(pa.array(found)).to_pylist()
    documents: list[Document | None] = [*store.take(found.tolist())] if texts else [None] * len(names)
    places = np.searchsorted(found, rows.numpy()).tolist()
    return [
        [
            Hit(names[place], score + 0.0, rank, documents[place])  # 0.0, not -0.0
            for rank, (score, place, row) in enumerate(zip(*query, strict=True), 1)
            if row >= 0
        ]
        for query in zip(scores.tolist(), places, rows.tolist(), strict=True)
    ]


def _collect_passages(store: Store, found: Sequence[Sequence[FoundDocument]], *, texts: bool) -> list[list[Hit]]:
    """Turn ranked documents into hits; each row is read once."""
    wanted = sorted({row for own in found for one in own for row, _ in one.passages}) if texts else []
    rows = dict(zip(wanted, store.take(wanted), strict=True))
    return [
        [
            Hit(one.id, one.score, rank)
            if not texts
            else Hit(
                one.id,
                one.score,
                rank,
                best_passage(rows[one.passages[0][0]]),
                tuple(as_passage(rows[row], score) for row, score in one.passages),
            )
            for rank, one in enumerate(own, 1)
        ]
        for own in found
    ]


def scorer_groups(
    model: Retriever | LightCompiler, queries: Sequence[str], options: Mapping[str, Any] | None = None
) -> Iterator[Scorer]:
    """Compile queries to scorers that are worth a scan each: many small queries together, large ones in batches.

    Args:
        model: The compiler.
        queries: Any number.
        options: As for `Retriever.compile`.

    Yields:
        Scorers of successive queries.
    """
    if not hasattr(model, "compile_batches"):
        raise InputError(
            f"a {type(model).__name__} compiles no queries; search with a scorer or vectors, or open with model="
        )
    gathered: list[Scorer] = []
    for part in model.compile_batches(queries, options):
        if gathered and _numbers([*gathered, part]) > _NUMBERS:
            yield _joined(gathered)
            gathered = []
        gathered.append(part)
    if gathered:
        yield _joined(gathered)


def _numbers(parts: Sequence[Scorer]) -> int:
    return sum(math.prod(tensor.shape) for part in parts for tensor in part.tensors().values())


def _joined(parts: Sequence[Scorer]) -> Scorer:
    return parts[0] if len(parts) == 1 else type(parts[0]).concatenate(parts)


def documents_by_id(snapshot: Snapshot, ids: Sequence[str]) -> dict[str, Document]:
    """Return stored documents by id; those that are not stored are missing."""
    distinct = list(dict.fromkeys(ids))
    rows = snapshot.rows_of_ids(distinct)
    wanted, places = np.unique(rows[rows >= 0], return_inverse=True)
    documents = snapshot.store.take(wanted.tolist())
    stored = [identity for identity, row in zip(distinct, rows, strict=True) if row >= 0]
    return {identity: documents[place] for identity, place in zip(stored, places, strict=True)}


def score_chosen(
    opened: OpenIndex,
    scorers: Iterable[Scorer],
    ids: Sequence[Sequence[str]],
    passages: Passages | None = None,
) -> list[list[float]]:
    """Score documents, each by the query it is listed for.

    Args:
        opened: The index.
        scorers: Compiled queries, in successive groups.
        ids: For each query the ids of its documents.
        passages: The documents that rows are passages of, scored by the best; None if they are whole.

    Returns:
        For each query its documents' scores.

    Raises:
        InputError: An id is not stored, or a scorer is for points of another width.
    """
    snapshot = opened.snapshot
    snapshot.load()
    flat = [identity for own in ids for identity in own]
    whole = None if passages is None else passages.rows_of(flat)
    found = snapshot.rows_of_ids(flat) if whole is None else np.array([len(rows) - 1 for rows in whole], np.int64)
    if (found < 0).any():
        raise InputError(f"the index {opened.folder} holds no document {flat[int((found < 0).argmax())]!r}")
    scores: list[list[float]] = []
    used = 0
    for scorer in scorers:
        check_points(scorer.space, opened.snapshot.space)
        lists = ids[len(scores) : len(scores) + len(scorer)]
        if passages is not None and whole is not None:
            members = iter(whole[used:])
            own_rows = [[next(members) for _ in own] for own in lists]
            used += sum(map(len, lists))
            scores += passages.best_scores(scorer, own_rows)
            continue
        rows = torch.full((len(lists), max(1, *map(len, lists))), NOTHING)
        for line, own in zip(rows, lists, strict=True):
            line[: len(own)] = torch.from_numpy(found[used : used + len(own)])
            used += len(own)
        part = exact_scores(snapshot, scorer, rows).tolist()
        scores += [line[: len(own)] for line, own in zip(part, lists, strict=True)]
    return scores
