"""Whether results that are measured again agree with those that were published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperseek._config import Config
from hyperseek.errors import InputError
from hyperseek.evaluation.suite._result_files import SuiteResult


class Drift(Config):
    """One value of one system on one collection, then and now.

    Attributes:
        system: The system's name.
        collection: The collection's name.
        measure: The measure.
        published: The mean that was published.
        measured: The mean now; None if the row cannot be compared.
        reason: What differs.
        drifted: Whether that is beyond the tolerance.
    """

    system: str
    collection: str
    measure: str
    published: float
    measured: float | None
    reason: str
    drifted: bool


def drifts(
    measured: Sequence[SuiteResult],
    published: Sequence[SuiteResult],
    *,
    tolerance: float = 0.002,
    trained: float = 0.02,
) -> list[Drift]:
    """Compare results with published ones of the same systems, seeds and collections.

    Args:
        measured: Results of now.
        published: Results of then.
        tolerance: Largest difference of a mean that is no drift: other processors round otherwise.
        trained: The same for systems that were trained, whose weights differ a little on other machines.

    Returns:
        One for each measure of each result that both have, in order of the published ones.

    Raises:
        InputError: They share no result.
    """
    now = {(one.system, one.collection, one.seed): one for one in measured}
    found = []
    for then in published:
        again = now.get((then.system, then.collection, then.seed))
        if again is not None:
            found += [
                _drift(again, then, name, trained if then.seed is not None else tolerance) for name in then.values
            ]
    if not found:
        raise InputError("the published results and these have no system and collection in common")
    return found


def _drift(again: SuiteResult, then: SuiteResult, measure: str, tolerance: float) -> Drift:
    before = float(np.mean(then.values[measure]))
    shared: dict[str, Any] = {
        "system": then.system,
        "collection": then.collection,
        "measure": measure,
        "published": before,
    }
    if then.column != again.column:
        reason = "the collection is another one: its fingerprint, split, judgements or selection differ"
        return Drift(**shared, measured=None, reason=reason, drifted=True)
    if then.queries != again.queries:
        return Drift(**shared, measured=None, reason="the queries are others", drifted=True)
    if measure not in again.values:
        return Drift(**shared, measured=None, reason="it was not measured now", drifted=True)
    after = float(np.mean(again.values[measure]))
    changed = sum(
        abs(one - other) > 1e-9 for one, other in zip(then.values[measure], again.values[measure], strict=True)
    )
    why = "" if then.key == again.key else ", and the system is another one: recipe, data or model differ"
    reason = f"{changed} of {len(then.queries)} queries differ{why}"
    return Drift(**shared, measured=after, reason=reason, drifted=abs(after - before) > tolerance)
