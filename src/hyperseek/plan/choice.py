"""The plan that an index chooses by itself, for a kind of scorer and a number of documents."""

from __future__ import annotations

from typing import Any

from hyperseek.errors import StoreError
from hyperseek.plan._context import Ground
from hyperseek.plan._fusion import Rescore
from hyperseek.plan._plan import Plan, as_plan
from hyperseek.plan._sources import Scan, Surrogate
from hyperseek.plan.engine_search import SCAN
from hyperseek.scoring import Scorer
from hyperseek.store.attachments import TunedPlan
from hyperseek.types import QueryOptions

EXACT = "exact"
"""Name that asks for the exhaustive search."""

AUTO = "auto"
"""Name that leaves the choice to the index."""

# A scan of fewer documents takes less time than an engine and the rescoring of its candidates.
_FEW = 20_000
# Candidates of an engine for each document that is wanted, and at least.
_CANDIDATES = 10
_LEAST_CANDIDATES = 300


def plan_key(kind: str, options: QueryOptions) -> str:
    """Return what a tuned plan is kept under: the kind of scorer, and the options of its queries where it has some."""
    return f"{kind} ({options})" if options else kind


def choose_plan(ground: Ground, scorer: Scorer, engine: str, k: int) -> tuple[Plan, str]:
    """Return the plan that searches an index, and why it is this one.

    Args:
        ground: The index.
        scorer: Compiled queries, or some of them.
        engine: `AUTO`, `EXACT`, or the name of an engine.
        k: Documents of each query.

    Returns:
        The plan and a reason for people.

    Raises:
        UnknownNameError: The index has no engine of this name.
    """
    if engine == EXACT:
        return Plan(stages=(Scan(),)), "every document is scored, as was asked"
    count, newest = len(ground.snapshot), ground.newest()
    if engine == AUTO:
        key = plan_key(scorer.kind, scorer.options)
        tuned = ground.attachments.plans.get(key)
        if tuned is not None and k <= tuned.k:
            return _tuned_plan(ground, tuned), (
                f"the plan tuned on this index for {key} scorers: recall@{tuned.k} {tuned.recall:.4f} "
                f"on {tuned.queries} queries"
            )
        if newest is None:
            return Plan(stages=(Scan(),)), "every document is scored, since the index has no engine"
        if count < _FEW:
            return Plan(stages=(Scan(),)), f"every document is scored, which is fast for fewer than {_FEW:,}"
    name = newest.name if engine == AUTO and newest is not None else engine
    structure = ground.attached(name).structure
    n = max(_LEAST_CANDIDATES, _CANDIDATES * k)
    nonlinear = f"a {scorer.kind!r} scorer is not linear"
    if structure.can_search(scorer):
        reason = f"candidates from {name!r}, which can search by this scorer; scored exactly"
        return as_plan(structure.stages(name, n)), reason
    if structure.surrogate_parameters is not None:
        source = Surrogate(n=n, engine=name)
        reason = f"candidates from {name!r} by a linear surrogate, since {nonlinear}"
    else:
        source = Surrogate(n=n, engine=SCAN)
        reason = f"candidates from a scan by a linear surrogate, since {nonlinear} and {name!r} has no chart for those"
    return source >> Rescore(), f"{reason}; scored exactly"


def _tuned_plan(ground: Ground, tuned: TunedPlan) -> Plan:
    """Return the plan that an index names; StoreError where it is none, or would load a model."""
    # An index may come from a stranger, and tuning never writes a plan that names a model.
    if _names_a_model(tuned.plan):
        raise StoreError(
            f"the plan tuned on {ground.folder} names a model, which tuning never writes; tune the index again, or "
            f"search with a plan of your own"
        )
    return Plan.from_mapping(tuned.plan, source=f"the plan tuned on {ground.folder}", error=StoreError)


def _names_a_model(plan: Any) -> bool:
    if isinstance(plan, dict):
        return plan.get("model") is not None or any(map(_names_a_model, plan.values()))
    return isinstance(plan, list | tuple) and any(map(_names_a_model, plan))
