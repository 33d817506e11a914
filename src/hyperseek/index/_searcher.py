"""The search methods of an index.

Shapes: `Q` queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from hyperseek.errors import InputError, shown
from hyperseek.index._arguments import (
    Vectors,
    as_list,
    check_count,
    check_engine,
    check_flag,
    check_id_lists,
    check_options,
    check_queries,
    check_share,
    compiled_queries,
    meant,
)
from hyperseek.index._tune import Tuning, tune
from hyperseek.index.searching import Explanation, Request, find, hits_of, score_chosen, scorer_groups
from hyperseek.plan import AUTO, OpenIndex, PlanLike
from hyperseek.scoring import Scorer
from hyperseek.types import Hit, Query, QueryOptions, Run

if TYPE_CHECKING:
    from hyperseek.models import Retriever


HABITS = {
    **dict.fromkeys(("top_k", "topk", "n", "limit", "size", "count", "num_results", "n_results", "max_results"), "k"),
    **dict.fromkeys(("filter", "filters", "condition", "where_filter", "conditions"), "where"),
    **dict.fromkeys(("query", "text", "q", "question", "queries_", "query_text", "query_texts"), "queries"),
    **dict.fromkeys(("engine_name", "index", "method"), "engine"),
    **dict.fromkeys(("stages", "pipeline"), "plan"),
    **dict.fromkeys(("option", "query_options", "card", "level", "task"), "options"),
    **dict.fromkeys(("documents", "doc_ids", "document_ids"), "ids"),
    **dict.fromkeys(("with_texts", "include_texts", "return_texts"), "texts"),
}
"""What hands type by habit, and what it is called here."""


class Searcher(ABC):
    """Something with documents and a model, which can be searched."""

    @property
    @abstractmethod
    def _ground(self) -> OpenIndex:
        """The version at hand; another one after `refresh`, so what belongs together is asked of one."""

    @property
    @abstractmethod
    def model(self) -> Retriever:
        """The model that compiles queries."""

    @overload
    def search(  # type: ignore[overload-overlap]  # a string is a sequence of strings, and means one query
        self,
        queries: str,
        *,
        k: int = 10,
        where: str | None = None,
        engine: str = AUTO,
        plan: PlanLike | None = None,
        options: Mapping[str, Any] | None = None,
        exclude: Sequence[str | None] | None = None,
        texts: bool = True,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        queries: Sequence[str] | Scorer,
        *,
        k: int = 10,
        where: str | None = None,
        engine: str = AUTO,
        plan: PlanLike | None = None,
        options: Mapping[str, Any] | None = None,
        exclude: Sequence[str | None] | None = None,
        texts: bool = True,
    ) -> list[list[Hit]]: ...

    @overload
    def search(
        self,
        queries: Vectors,
        *,
        k: int = 10,
        where: str | None = None,
        engine: str = AUTO,
        plan: PlanLike | None = None,
        options: Mapping[str, Any] | None = None,
        exclude: Sequence[str | None] | None = None,
        texts: bool = True,
    ) -> list[Any]: ...

    @meant(**HABITS)
    def search(
        self,
        queries: str | Sequence[str] | Scorer | Vectors,
        *,
        k: int = 10,
        where: str | None = None,
        engine: str = AUTO,
        plan: PlanLike | None = None,
        options: Mapping[str, Any] | None = None,
        exclude: Sequence[str | None] | None = None,
        texts: bool = True,
    ) -> list[Hit] | list[list[Hit]]:
        """Find the best documents of one or many queries.

        Args:
            queries: One text, many texts, queries that are compiled already, or vectors of yours in the coordinates of
                the index' space: `(d,)` for one query, `(Q, d)` for many, numpy or torch, float64 as well.
            k: Documents a query, at least 1; may exceed the size of the index.
            where: SQL over ids, titles, texts and metadata fields that documents must meet, as in
                `"year > 2015 AND venue = 'ACL'"`; None for all. See `fields`.
            engine: `"auto"` for the plan that was tuned on this index or else for what its size suggests, `"exact"` to
                score every document, or the name of an engine, whose candidates are then scored exactly.
            plan: What to do instead, stage by stage: a plan, a source such as `FullText()`, a list of stages, or plain
                values as those of a file.
            options: What is asked of the model besides the texts, as in `{"level": 2}`; see `QueryOptions`.
            exclude: For each query the id of a document to leave out, or None. The others move up, so `k` remain.
            texts: Whether the hits carry their documents.

        Returns:
            For one text its hits, best first, ties in the order of the index; for others a list of hits a query.

        Raises:
            InputError: A query is no text or blank, `k` is no whole number of at least 1, the number of exclusions is
                not that of queries, a scorer does not fit, or the condition or the plan cannot be used.
            UnknownNameError: The index has no engine of this name.
            StoreError: The index names no model and none was given.
            FingerprintError: The model's document side is not the one that made the index.
        """
        asked, single = compiled_queries(queries, self._ground.snapshot.space)
        request = Request.checked(asked, k, exclude=exclude, engine=engine, plan=plan, where=where, options=options)
        hits = self._hits(request, texts=check_flag(texts, "texts"))
        return hits[0] if single else hits

    @meant(**HABITS)
    def explain(
        self,
        queries: str | Sequence[str] | Scorer | Vectors,
        *,
        k: int = 10,
        where: str | None = None,
        engine: str = AUTO,
        plan: PlanLike | None = None,
        options: Mapping[str, Any] | None = None,
        exclude: Sequence[str | None] | None = None,
        texts: bool = False,
        recall: bool = False,
    ) -> Explanation:
        """Search, and say which stages ran, why, how long they took, and what they found.

        Args:
            queries: As in `search`; at least one.
            k: Documents a query, at least 1.
            where: As in `search`.
            engine: As in `search`.
            plan: As in `search`.
            options: As in `search`.
            exclude: As in `search`.
            texts: Whether the hits carry their documents.
            recall: Whether to search exhaustively too, and report the recall of every stage.

        Returns:
            The explanation, with the hits of every query; `lines` prints it.

        Raises:
            InputError: As in `search`, or there are no queries.
        """
        asked, _ = compiled_queries(queries, self._ground.snapshot.space)
        given = {"exclude": exclude, "engine": engine, "plan": plan, "where": where, "options": options}
        request = Request.checked(asked, k, **given, measure=check_flag(recall, "recall"))
        told: list[Explanation] = []
        hits = self._hits(request, texts=check_flag(texts, "texts"), explanation=told)
        if not told:
            raise InputError("there are no queries to explain a search for; give at least one")
        told[0].hits = hits
        return told[0]

    @meant(**HABITS)
    def run(
        self,
        queries: Mapping[str, str] | Sequence[Query],
        *,
        k: int = 100,
        scorer: Scorer | None = None,
        where: str | None = None,
        engine: str = AUTO,
        plan: PlanLike | None = None,
        options: Mapping[str, Any] | None = None,
        exclude_same_id: bool = False,
    ) -> Run:
        """Search with named queries, for evaluation.

        Args:
            queries: Texts by id, or query records.
            k: Documents a query, at least 1.
            scorer: The same queries, compiled already, in order.
            where: As in `search`.
            engine: As in `search`.
            plan: As in `search`.
            options: As in `search`.
            exclude_same_id: Leave out of each ranking the document whose id is the query's.

        Returns:
            Scores by query and document, best first.

        Raises:
            InputError: As in `search`, or two queries have one id; a query's id is named.
            StoreError: The index names no model and none was given.
            FingerprintError: The model's document side is not the one that made the index.
        """
        texts = _named(queries)
        if scorer is not None and not isinstance(scorer, Scorer):
            raise InputError(f"scorer is the queries compiled, as by model.compile, not {shown(scorer)}")
        if scorer is not None and len(scorer) != len(texts):
            raise InputError(f"the scorer holds {len(scorer)} queries and {len(texts)} were named")
        asked = list(texts.values())
        request = Request.checked(
            asked if scorer is None else scorer,
            k,
            names=list(texts),
            texts=asked,
            exclude=list(texts) if check_flag(exclude_same_id, "exclude_same_id") else None,
            engine=engine,
            plan=plan,
            where=where,
            options=options,
        )
        found = self._hits(request, texts=False)
        return {name: {hit.id: hit.score for hit in hits} for name, hits in zip(texts, found, strict=True)}

    @meant(**HABITS)
    def score(
        self,
        queries: Sequence[str] | Scorer | Vectors,
        ids: Sequence[Sequence[str]],
        *,
        options: Mapping[str, Any] | None = None,
    ) -> list[list[float]]:
        """Score documents of the caller's choice exactly, each by the query it is listed for.

        Args:
            queries: Many texts, queries that are compiled already, or `(Q, d)` vectors, as in `search`.
            ids: For each query the ids of its documents; any number, none included.
            options: As in `search`.

        Returns:
            For each query its documents' scores, in the order of the ids; higher is better.

        Raises:
            InputError: The number of lists is not that of queries, an id is not stored, or a scorer does not fit.
            StoreError: The index names no model and none was given.
        """
        if not isinstance(queries, str):  # which is refused: ids are for many queries
            queries = compiled_queries(queries, self._ground.snapshot.space)[0]
        asked = check_queries(queries)
        lists = check_id_lists(ids)
        if len(asked) != len(lists):
            raise InputError(f"there are {len(asked)} queries and {len(lists)} lists of ids; give one each")
        checked = check_options(options, asked)
        scorers = [asked] if isinstance(asked, Scorer) else self._groups(asked, checked)
        return score_chosen(self._ground, scorers, lists)

    @meant(**HABITS)
    def tune(
        self,
        queries: Sequence[str] | Scorer,
        *,
        k: int = 10,
        recall: float = 0.99,
        engine: str | None = None,
        options: Mapping[str, Any] | None = None,
        save: bool = True,
    ) -> Tuning:
        """Measure recall and latency of engine settings against exhaustive search, and keep the cheapest good one.

        Args:
            queries: Many texts, or queries that are compiled already: like those that will be asked.
            k: Documents a query, at least 1.
            recall: Of the exhaustive top `k`, in (0, 1]; what the chosen plan must reach.
            engine: Measure this engine or graph alone; None for all.
            options: As in `search`; the chosen plan is for searches with these options alone.
            save: Whether `engine="auto"` searches by the chosen plan from now on.

        Returns:
            What was measured.

        Raises:
            InputError: There are no queries, `recall` is out of range, or the index has no engine.
            UnknownNameError: There is no such engine.
            StoreError: Another writer is at work.
        """
        asked, count, wanted = check_queries(queries), check_count(k), check_share(recall)
        if engine is not None:
            check_engine(engine)
        if not len(asked):
            raise InputError("there are no queries to tune by; give some like those that will be asked")
        texts = None if isinstance(asked, Scorer) else asked
        checked = check_options(options, asked)
        scorers = [asked] if isinstance(asked, Scorer) else list(self._groups(asked, checked))
        ground = self._ground
        tuning = tune(ground, scorers, texts, k=count, recall=wanted, engine=engine)
        if save:
            tuning.save(ground.folder)
            ground.reread()
        return tuning

    @property
    def tuned_plans(self) -> dict[str, dict[str, Any]]:
        """Plans that were tuned on this index, by the kind of scorer and the options they are for, as plain values."""
        return {kind: tuned.model_dump(mode="json") for kind, tuned in self._ground.attachments.plans.items()}

    def _hits(self, request: Request, *, texts: bool, explanation: list[Explanation] | None = None) -> list[list[Hit]]:
        ground = self._ground
        found = find(ground, request, self._groups, explanation=explanation)
        return list(hits_of(ground, found, texts=texts))

    def _groups(self, texts: Sequence[str], options: QueryOptions) -> Iterable[Scorer]:
        return scorer_groups(self.model, texts, options)


def _named(queries: object) -> Mapping[str, str]:
    """Return texts by id; InputError where they are neither a mapping nor query records."""
    wanted = "run() takes texts by id, as {'q1': 'a text'}, or Query records"
    if isinstance(queries, Mapping):
        for name in queries:
            if not isinstance(name, str | int):
                raise InputError(f"{wanted}, and {shown(name)} is no id")
        return queries
    other = f"{wanted}, not {shown(queries)}; for queries without ids use search()"
    texts: dict[str, str] = {}
    for query in as_list(queries, other):
        if not isinstance(query, Query):
            raise InputError(f"{wanted}, and one of them is {shown(query)}; for queries without ids use search()")
        if query.id in texts:
            raise InputError(f"two queries have the id {shown(query.id)}; ids must be unique")
        texts[query.id] = query.text
    return texts
