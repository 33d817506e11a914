"""What `hyperseek evaluate` ranks by: models, levels, plans, further indexes, BM25 and files of rankings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hyperseek.cli._search import hybrid_plan

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.evaluation import Ranking
    from hyperseek.index import Index
    from hyperseek.models import Retriever
    from hyperseek.plan import Plan
    from hyperseek.types import Qrels, QueryOptions

System: TypeAlias = "tuple[str, Callable[[str], Ranking]]"
"""A name, and the function that ranks under that name."""

SET = "{set}"
"""What stands for each of `--sets` in names of places."""


@dataclass(frozen=True)
class Asked:
    """What to search the index of a data set by.

    Attributes:
        models: Folders or names.
        plans: Files.
        hybrid: Whether to fuse full-text search with the model's.
        bm25: Whether to rank by BM25, too.
        bm25q: Whether to rank by BM25 with a weighted query side, too.
        engine: For the models' searches.
        options: Of the queries.
        card_field: Field of the queries' metadata that describes the card of each; None for no cards of their own.
        searching: Keywords of all rankings: split, k, and what is left out.
        load: Loads a model.
        levels: Whether to search at all levels.
        beside: Further indexes of the same documents.
    """

    models: list[str]
    plans: list[Path]
    hybrid: bool
    bm25: bool
    bm25q: bool
    engine: str
    options: QueryOptions
    card_field: str | None
    searching: dict[str, Any]
    load: Callable[[str], Retriever]
    levels: bool
    beside: list[Path]

    def systems(self, path: Path, dataset: Dataset, query_length: int | None, subset: str | None) -> list[System]:
        """Return what ranks the documents of a data set, by name."""
        from hyperseek.evaluation import rank_bm25, rank_index
        from hyperseek.index import Index
        from hyperseek.mining import BM25Settings
        from hyperseek.models.loading import set_query_length
        from hyperseek.plan import Plan

        index = Index.open(path)

        def opened(source: str | None) -> Index:
            chosen = index if source is None else Index.open(path, model=self.load(source))
            if query_length is not None:
                set_query_length(chosen.model, query_length)
            return chosen

        how: dict[str, Any] = {"engine": self.engine, "options": self.options, **self.searching}

        def search(source: str | None, name: str, plan: Plan | None = None) -> Ranking:
            return rank_index(opened(source), dataset, name=name, plan=plan, card_field=self.card_field, **how)

        given: list[tuple[str, str | None]] = [*short_names(self.models)]
        given = given or [(Path(index.info.source or "index").name, None)]
        if self.levels:
            found = [_level_systems(name, partial(opened, source), dataset, index, how) for name, source in given]
            systems = [system for one in found for system in one]
        else:
            systems = [(name, partial(search, source)) for name, source in given]
        others = short_names([filled(other, subset) for other in self.beside])
        systems += [(name, partial(_rank_beside, Index.open(other), dataset, how)) for name, other in others]
        stages = [(file.stem, Plan.load(file)) for file in self.plans]
        if self.hybrid:
            stages.append(("hybrid", hybrid_plan(self.searching["k"], self.engine)))
        systems += [(name, partial(search, next(iter(self.models), None), plan=plan)) for name, plan in stages]
        if self.bm25:
            systems.append(("BM25", partial(_named, rank_bm25, dataset, **self.searching)))
        if self.bm25q:
            settings = BM25Settings(query_weights="bm25")
            systems.append(("BM25Q", partial(_named, rank_bm25, dataset, settings=settings, **self.searching)))
        return systems


def _named(function: Callable[..., Ranking], *arguments: Any, **options: Any) -> Ranking:
    *given, name = arguments
    return function(*given, name=name, **options)


def short_names(paths: Sequence[Path | str]) -> list[tuple[str, str]]:
    """Pair each path with its last part, or with all of it if two have the same last part."""
    ends = [Path(path).name for path in paths]
    return [(str(path) if ends.count(end) > 1 else end, str(path)) for path, end in zip(paths, ends, strict=True)]


def file_systems(
    files: list[Path], subset: str | None, judged: Qrels, dataset: Dataset | None, split: str
) -> list[System]:
    """Return a system for each file of rankings, as `--runs` names them."""
    from hyperseek.evaluation import excluded_ids, rank_file

    excluded = excluded_ids(dataset.queries(split)) if files and dataset is not None else None
    return [
        (name, partial(_named, rank_file, filled(file, subset), judged, excluded=excluded))
        for name, file in short_names(files)
    ]


def _level_systems(
    name: str, opened: Callable[[], Index], dataset: Dataset, index: Index, how: Mapping[str, Any]
) -> list[System]:
    """Return a system for each pair of levels; the first that ranks encodes the queries for all."""
    from hyperseek.evaluation import rank_levels
    from hyperseek.evaluation.hierarchy_rankings import at_levels, level_pairs

    @cache
    def rankings() -> dict[str, Ranking]:
        return {ranking.name: ranking for ranking in rank_levels(opened(), dataset, name=name, **how)}

    return [(at_levels(name, pair), lambda own: rankings()[own]) for pair in level_pairs(index.space.levels)]


def _rank_beside(index: Index, dataset: Dataset, how: Mapping[str, Any], name: str) -> Ranking:
    """Search another index; one without levels has no options of levels, and may be compared with any."""
    from hyperseek.evaluation import rank_index

    if index.space.levels > 1:
        return rank_index(index, dataset, name=name, **how)
    ranking = rank_index(index, dataset, name=name, **{**how, "options": None})
    return replace(ranking, protocol=ranking.protocol.model_copy(update={"options": None}))


def filled(place: Path | str, subset: str | None) -> str:
    """Return a place with a set's name where `SET` stands; as it is without sets."""
    return str(place) if subset is None else str(place).replace(SET, subset)
