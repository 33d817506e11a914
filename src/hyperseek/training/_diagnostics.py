"""Numbers of a step that are logged beside the losses: where in a hyperbolic space the points are."""

from __future__ import annotations

import math

from torch import Tensor

from hyperseek.geometry import split_polar
from hyperseek.models import Retriever
from hyperseek.scoring import LinearScorer, Points, Scorer


def diagnose(retriever: Retriever, scorer: Scorer, points: Points) -> dict[str, Tensor]:
    """Return the mean distances of queries and documents from the origin, and what the model says of itself.

    Args:
        retriever: The model.
        scorer: Of a batch's queries.
        points: Of its documents.

    Returns:
        0-dim tensors without gradient, by name; none for flat spaces whose model says nothing.
    """
    own = getattr(retriever.route("document")[-1], "diagnostics", None)
    values: dict[str, Tensor] = {} if own is None else own()
    space = retriever.space
    if space.kind in ("lorentz", "poincare"):
        radius = math.sqrt(space.radius_squared)
        values["document_radius"] = split_polar(points.vectors.detach())[1].mean() * radius
        if isinstance(scorer, LinearScorer):
            values["query_radius"] = split_polar(scorer.queries.detach())[1].mean() * radius
    return values
