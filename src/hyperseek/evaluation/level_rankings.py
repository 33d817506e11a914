"""Rankings at the levels of a model, from queries that are encoded once.

Levels are numbered from 1, the broadest. A query at level m may be compared with documents at another level n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hyperseek.errors import InputError
from hyperseek.evaluation._ranking import Ranking, rank_index
from hyperseek.scoring import Scorer
from hyperseek.types import QueryOptions

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.index import Index
    from hyperseek.plan import PlanLike

LevelPair = tuple[int, int]
"""The level of queries and that of documents."""


def level_pairs(levels: int) -> list[LevelPair]:
    """Return all pairs of a query's and a document's level: equal ones first, the narrowest before all others."""
    equal = [(level, level) for level in range(levels, 0, -1)]
    return equal + [(m, n) for m in range(1, levels + 1) for n in range(1, levels + 1) if m != n]


def at_levels(name: str, pair: LevelPair) -> str:
    """Name a system at a pair of levels: `NAME@4`, or `NAME@4-1` for queries at 4 and documents at 1."""
    query, document = pair
    return f"{name}@{query}" if query == document else f"{name}@{query}-{document}"


def rank_levels(
    index: Index,
    dataset: Dataset,
    *,
    pairs: Sequence[LevelPair] | None = None,
    split: str = "test",
    k: int = 1000,
    exclude_same_id: bool = False,
    name: str | None = None,
    engine: str = "exact",
    plan: PlanLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Ranking]:
    """Search an index at several levels; the queries are encoded once.

    The levels are part of each ranking's system, not of its options, so that levels can be compared with each other
    and with systems that have none.

    Args:
        index: Index of a model with levels.
        dataset: Queries and judgements.
        pairs: Levels of queries and documents; None takes all pairs, the narrowest level first.
        split: As for `rank_index`.
        k: As for `rank_index`.
        exclude_same_id: As for `rank_index`.
        name: As for `rank_index`; followed by `@` and the level, as in `NAME@4`, or `NAME@4-1` across levels.
        engine: As for `rank_index`.
        plan: As for `rank_index`.
        options: Other options of the queries, as `relation`.

    Returns:
        A ranking for each pair.

    Raises:
        InputError: The model has no levels, an option is a level, or as for `rank_index`.
        UnknownNameError: There is no such split, or the model does not understand an option.
    """
    asked = QueryOptions.of(options)
    scorer = index.model.compile([query.text for query in dataset.queries(split)], asked)
    searched = {"split": split, "k": k, "exclude_same_id": exclude_same_id, "engine": engine, "plan": plan}
    rankings = []
    for pair, placed in scorers_at_levels(scorer, pairs).items():
        ranking = rank_index(index, dataset, scorer=placed, **searched)  # type: ignore[arg-type]
        system = {**ranking.protocol.system, "level": pair[0], "document_level": pair[1]}
        protocol = ranking.protocol.model_copy(update={"options": asked, "system": system})
        rankings.append(replace(ranking, name=at_levels(name or ranking.name, pair), protocol=protocol))
    return rankings


def scorers_at_levels(scorer: Scorer, pairs: Sequence[LevelPair] | None = None) -> dict[LevelPair, Scorer]:
    """Return the same queries at pairs of levels, all unless given; InputError if they have no levels."""
    levels = scorer.space.levels
    if levels < 2:
        raise InputError(
            f"these queries have no levels to compare: they are {scorer.kind!r} ones of a {scorer.space.kind!r} "
            f"space; give the index of a model with levels"
        )
    odd = {"level", "document_level", "broaden"} & set(scorer.options)
    if odd:
        raise InputError(f"all levels are compared, so leave out the option {sorted(odd)[0]!r}")
    return {pair: scorer.at(level=pair[0], document_level=pair[1]) for pair in pairs or level_pairs(levels)}
