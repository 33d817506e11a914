"""Surrogates: a linear function of the space's features in place of a scorer that no vector engine can search by.

The scorer scores some fixed documents, the landmarks; a least-squares fit of those scores gives each query a vector
that an engine can search with. The scorer itself then scores the candidates that the engine finds. As the landmarks are
the same for all queries, so is the pseudo-inverse of their features.

Shapes: `Q` queries, `L` landmarks, `n` candidates of each query, `f` features (a constant is added in fits).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from hyperseek.errors import InputError
from hyperseek.scoring._geometries import Chart
from hyperseek.scoring._points import Points, VectorPoints
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space

# Ridge of a fit, relative to the mean square of a feature: enough where there are fewer landmarks than features.
_RIDGE = 1e-4


class SurrogateScorer(Scorer):
    """Queries as linear functions of features.

    Args:
        space: The space of the features.
        weights: `(Q, f)`.
        bias: `(Q,)`.
        parameters: Parameters of the chart that the features belong to.
    """

    kind = "surrogate"

    def __init__(
        self, space: Space, weights: Tensor, bias: Tensor, *, parameters: Mapping[str, Any] | None = None
    ) -> None:
        self.space = space
        self.weights = weights
        self.bias = bias
        self.parameters = dict(parameters or {})

    def score(self, points: Points) -> Tensor:
        """Return `(Q, N)` values of the linear functions."""
        features = self.space.chart("inner_product", **self.parameters).lift_documents(points)
        return torch.addmm(self.bias[:, None], self.weights, features.float().T)

    def score_own(self, documents: Tensor | Points) -> Tensor:
        """Return `(Q, n)` values at each query's own documents: `(Q, n, w)`, or `Q * n` points query by query."""
        flat = VectorPoints(documents.flatten(0, 1)) if isinstance(documents, Tensor) else documents
        each = len(flat) // max(1, len(self))
        features = self.space.chart("inner_product", **self.parameters).lift_documents(flat).float()
        products = torch.einsum("qf,qnf->qn", self.weights, features.reshape(len(self), each, features.shape[1]))
        return products + self.bias[:, None]

    def linear(self) -> Tensor | None:
        """Return the weights where features are the points themselves, else None."""
        return self.weights if self.space.plain_product else None

    def lift(self, chart: Chart) -> Tensor | None:
        """Return `(Q, e)` queries for an engine, or None if the chart is not for functions of these features."""
        own = self.space.chart("inner_product", **self.parameters).parameters
        others = {name: value for name, value in chart.parameters.items() if name != "bound"}
        return None if chart.lift_weights is None or others != own else chart.lift_weights(self.weights)

    def tensors(self) -> dict[str, Tensor]:
        """Return `weights` and `bias`."""
        return {"weights": self.weights, "bias": self.bias}

    def config(self) -> dict[str, Any]:
        """Return the space and the chart's parameters."""
        return {"space": self.space.to_json(), "parameters": self.parameters}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the surrogate from what `tensors` and `config` returned."""
        space = Space.from_json(config["space"])
        return cls(space, tensors["weights"], tensors["bias"], parameters=config["parameters"])


class Landmarks:
    """Fixed documents, and the matrices that every fit to their scores needs.

    Args:
        space: The geometry of the documents.
        points: `L` documents on the CPU, at least 1; as many as features, or more, are better.
        parameters: Parameters of the chart whose features are fitted, for token spaces.

    Raises:
        InputError: There is no landmark.
    """

    def __init__(self, space: Space, points: Points, *, parameters: Mapping[str, Any] | None = None) -> None:
        if not len(points):
            raise InputError("a surrogate needs at least 1 landmark")
        self.space = space
        self.points = points
        self.parameters = dict(parameters or {})
        self._chart = space.chart("inner_product", **self.parameters)
        design = self._design(points)
        self._gram = design.T @ design
        self._ridge = _RIDGE * float(self._gram.diagonal().mean())
        self._solution = torch.linalg.solve(self._regular(self._gram), design.T)  # (f + 1, L)
        self._features = design

    def __len__(self) -> int:
        return len(self.points)

    @property
    def nbytes(self) -> int:
        """Bytes of the points and of what was computed from them."""
        return sum(part.nbytes for part in (self.points, self._gram, self._solution, self._features))

    def fit(self, scorer: Scorer) -> SurrogateScorer:
        """Fit a surrogate to a scorer's scores of the landmarks.

        Args:
            scorer: `Q` compiled queries.

        Returns:
            As many linear functions.
        """
        return self._surrogate(self._scores(scorer) @ self._solution.T)

    def refit(self, scorer: Scorer, candidates: Points, scores: Tensor, *, weight: float = 1.0) -> SurrogateScorer:
        """Fit again with candidates that the scorer has scored: more exact near the best documents.

        Args:
            scorer: One compiled query.
            candidates: `n` documents on the CPU.
            scores: `(n,)`, the candidates' scores.
            weight: Weight of a candidate relative to a landmark, positive.

        Returns:
            One linear function.
        """
        design = self._design(candidates)
        gram = self._gram + weight * design.T @ design
        target = self._scores(scorer)[0] @ self._features + weight * scores.cpu().double() @ design
        return self._surrogate(torch.linalg.solve(self._regular(gram), target)[None])

    def _scores(self, scorer: Scorer) -> Tensor:
        return scorer.score(self.points.to(scorer.device)).cpu().double()

    def _design(self, points: Points) -> Tensor:
        features = self._chart.lift_documents(points).double()
        return torch.cat([features, features.new_ones(len(features), 1)], dim=1)

    def _regular(self, gram: Tensor) -> Tensor:
        ridge = torch.full_like(gram.diagonal(), self._ridge)
        ridge[-1] = 0  # the constant is free
        return gram + ridge.diag() + 1e-12 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)

    def _surrogate(self, fitted: Tensor) -> SurrogateScorer:
        weights, bias = fitted[:, :-1].float(), fitted[:, -1].float()
        return SurrogateScorer(self.space, weights, bias, parameters=self.parameters)


def surrogate(scorer: Scorer, landmarks: Landmarks | Points) -> SurrogateScorer:
    """Make a linear scorer that ranks nearly as another does.

    Args:
        scorer: Anything with `score`: `Q` compiled queries.
        landmarks: Documents to fit to; `Landmarks` if the same documents are used again.

    Returns:
        A scorer that `lift`s into the charts of the same space.

    Raises:
        InputError: There is no landmark.
    """
    fixed = landmarks if isinstance(landmarks, Landmarks) else Landmarks(scorer.space, landmarks)
    return fixed.fit(scorer)
