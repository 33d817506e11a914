"""Scorers by functions of stored points, and the linear ones that stand in for a scorer.

A function of yours, or an ONNX model that reads the vectors of a query and of documents, is a scorer from outside. The
scorer of queries under a task card whose head `h` changes documents, too, is `<q, h(x)>`, with `h(x)` normalised where
the space is one of unit vectors. Stored points stay as they are: the head is applied to those that are scored, and
candidates are found in the index of the unchanged ones.

Engines cannot search by functions, nor by every other scorer; `surrogate` makes that possible. It is a linear function
of the space's features: the scorer scores some fixed documents, the landmarks, and a least-squares fit of those scores
gives each query a vector that an engine can search with. The scorer itself then scores the candidates that the engine
finds. As the landmarks are the same for all queries, so is the pseudo-inverse of their features.

Shapes: `Q` queries, `N` documents, `n` documents or candidates of each query's own, `w` numbers in a stored point (`d`
if it is a vector, which a head may change to one of `e`), `L` landmarks, `f` features (a constant is added in fits).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hyperseek._files import reading
from hyperseek.errors import InputError, ModelError, brief, require
from hyperseek.scoring._geometries import Chart
from hyperseek.scoring._points import Points, VectorPoints, own_documents, own_vectors, vectors_of
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space

# Ridge of a fit, relative to the mean square of a feature: enough where there are fewer landmarks than features.
_RIDGE = 1e-4


class FunctionScorer(Scorer):
    """Queries that are scored by a function of yours.

    ```python
    def score(queries, documents):          # {"vector": (Q, 384)}, Points of N
        return -(queries["vector"][:, None] - documents.vectors).abs().sum(-1)

    index.search(FunctionScorer(index.space, score, {"vector": vectors}))
    ```

    Args:
        space: The geometry of the documents.
        function: Maps the queries' tensors and `N` points to `(Q, N)` scores, higher is better; each document's score
            must not depend on the other documents.
        queries: Tensors by name, at least one; the first axis of each is the query.
    """

    kind = "function"

    def __init__(
        self, space: Space, function: Callable[[dict[str, Tensor], Points], Tensor], queries: Mapping[str, Tensor]
    ) -> None:
        if not queries or len({len(tensor) for tensor in queries.values()}) != 1:
            sizes = {name: tuple(tensor.shape) for name, tensor in queries.items()}
            raise InputError(f"the queries' tensors must share their first axis, the query; given {sizes}")
        self.space = space
        self.function = function
        self.queries = dict(queries)

    def score(self, points: Points) -> Tensor:
        """Return `(Q, N)` scores; InputError if the function returns another shape."""
        scores = self.function(self.queries, points).float()
        if scores.shape != (len(self), len(points)):
            raise InputError(
                f"the scoring function returned the shape {tuple(scores.shape)} for {len(self)} queries and "
                f"{len(points)} documents; it must return ({len(self)}, {len(points)})"
            )
        if not scores.requires_grad and scores.isnan().any():
            query, document = scores.isnan().nonzero()[0].tolist()
            raise InputError(
                f"the scoring function returned NaN for query {query} and document {document}; scores must be numbers "
                f"that can be ordered; use -inf for no score"
            )
        return scores

    def score_own(self, documents: Tensor | Points) -> Tensor:
        """Return `(Q, n)` scores of each query's own documents: `(Q, n, w)`, or `Q * n` points query by query."""
        own = own_documents(documents, len(self))
        rows = [self[place : place + 1].score(points) for place, points in enumerate(own)]
        return torch.cat(rows) if rows else torch.zeros(0, 0)

    def linear(self) -> None:
        """Return None: nothing is known about the function."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the queries."""
        return self.queries

    def config(self) -> dict[str, Any]:
        """Return the space and the function itself."""
        return {"space": self.space.to_json(), "function": self.function}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Raise InputError: code is not written to files."""
        raise InputError(
            "a FunctionScorer cannot be saved, since its function is code; save its queries and make it again"
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from what `tensors` and `config` returned."""
        return cls(Space.from_json(config["space"]), config["function"], tensors)


class OnnxScorer(FunctionScorer):
    """Queries that are scored by an ONNX model, a cross-scorer: it reads one query and a batch of documents.

    The model's first input is a query `(1, ...)`, its second the documents `(N, w)` for any `N`, and its first output
    their scores, `(N,)` or `(N, 1)`. It is loaded once; slices, joined scorers and scorers on other devices share it.

    Args:
        space: The geometry of the documents.
        path: The `.onnx` file.
        queries: `(Q, ...)` float32, one row per query.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: The file is missing, or is not an ONNX model that onnxruntime can run.
        InputError: The model does not have two inputs.
    """

    kind = "onnx"

    def __init__(self, space: Space, path: str | os.PathLike[str], queries: Tensor) -> None:
        self.path = os.fspath(path)
        super().__init__(space, _OnnxModel(self.path), {"queries": queries})

    def _with(self, tensors: Mapping[str, Tensor]) -> Self:
        other = copy.copy(self)
        other.queries = dict(tensors)
        return other

    def config(self) -> dict[str, Any]:
        """Return the space and the model's path."""
        return {"space": self.space.to_json(), "path": self.path}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the queries, and the path of the model."""
        Scorer.save(self, path)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from what `tensors` and `config` returned."""
        return cls(Space.from_json(config["space"]), config["path"], tensors["queries"])


class _OnnxModel:
    """A loaded cross-scorer, as a scoring function."""

    def __init__(self, path: str) -> None:
        onnxruntime = require("onnxruntime", extra="onnx")
        self._path = path
        remedy = "give a model that onnxruntime can run"
        with reading(path, "an ONNX model", error=ModelError, remedy=remedy), open(path, "rb"):
            self._session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        self._names = [put.name for put in self._session.get_inputs()]
        if len(self._names) != 2:
            raise InputError(f"{path} has the inputs {self._names}; a cross-scorer has two: a query and documents")

    def __call__(self, given: dict[str, Tensor], points: Points) -> Tensor:
        documents = vectors_of(points).float().cpu().numpy()
        rows = given["queries"].detach().float().cpu().numpy()
        scores = [self._run(row[None], documents) for row in rows]
        return torch.from_numpy(np.stack(scores)) if scores else torch.zeros(0, len(points))

    def _run(self, query: npt.NDArray[np.float32], documents: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            scores: npt.NDArray[np.float32] = self._session.run(
                None, dict(zip(self._names, (query, documents), strict=True))
            )[0]
        except Exception as error:  # onnxruntime's own exceptions have no other common base
            wanted = ", ".join(f"{put.name} {put.shape} {put.type}" for put in self._session.get_inputs())
            raise InputError(
                f"{self._path} cannot score a query of the shape {query.shape} and documents of the shape "
                f"{documents.shape} ({brief(error)}); its inputs are {wanted}"
            ) from error
        return scores.reshape(-1)


@dataclass(frozen=True, eq=False)
class DocumentHead:
    """What a card does to documents: an affine map, and perhaps layer normalisation after it.

    Attributes:
        matrix: `(d, e)`.
        bias: `(e,)`.
        scale: `(e,)`: layer normalisation follows, with this scale; None for none.
        shift: `(e,)`, its shift.
    """

    matrix: Tensor
    bias: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return changed vectors `(..., e)` of `(..., d)`."""
        y = x @ self.matrix + self.bias
        if self.scale is None or self.shift is None:
            return y
        return nn.functional.layer_norm(y, y.shape[-1:]) * self.scale + self.shift

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The numbers as lists."""
        return {name: tensor.tolist() for name, tensor in self._tensors().items()}

    def to(self, device: str | torch.device) -> DocumentHead:
        """Return the head on a device."""
        return DocumentHead(**{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def detach(self) -> DocumentHead:
        """Return the head cut from the graph that computed it."""
        return DocumentHead(**{name: tensor.detach() for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in given.items() if tensor is not None}


class CardScorer(Scorer):
    """Queries as changed points, compared with changed documents.

    Engines find candidates by the head's linear part: the norms of changed documents are left out.

    Args:
        space: That of stored points, whose similarity is a product.
        queries: `(Q, e)`, changed, and of norm 1 where points have it.
        head: What changes documents.

    Raises:
        InputError: The similarity is not a product, or shapes do not fit.
    """

    kind = "card"

    def __init__(self, space: Space, queries: Tensor, head: DocumentHead) -> None:
        if not space.plain_product:
            raise InputError(f"heads change documents of spaces of products alone, not of a {space.kind!r} space")
        if tuple(head.matrix.shape) != (space.dimension, queries.shape[-1]) or queries.ndim != 2:
            raise InputError(
                f"queries of shape {tuple(queries.shape)} do not fit documents of {space.dimension} numbers and a "
                f"head of shape {tuple(head.matrix.shape)}"
            )
        self.space = space
        self.queries = queries
        self.head = head

    def score(self, points: Points) -> Tensor:
        """Return `(Q, N)` products with changed documents."""
        return self.queries.float() @ self._changed(vectors_of(points)).T

    def score_own(self, documents: Tensor | Points) -> Tensor:
        """Return `(Q, n)` products of each query with its own documents: `(Q, n, d)`, or `Q * n` points."""
        changed = self._changed(own_vectors(documents, len(self)))
        return torch.einsum("qe,qne->qn", self.queries.float(), changed)

    def _changed(self, vectors: Tensor) -> Tensor:
        self.space.check(vectors)
        changed = self.head(vectors.float())
        return nn.functional.normalize(changed, dim=-1) if self.space.unit_norm else changed

    def linear(self) -> None:
        """Return None: the norm of a changed document is not linear in the document."""

    def lift(self, chart: Chart) -> Tensor | None:
        """Return `(Q, e)` queries of the linear part; None with layer normalisation."""
        if self.head.scale is not None or chart.lift_weights is None:
            return None
        return chart.lift_weights(self.queries.float() @ self.head.matrix.T)

    def moved_towards(self, documents: Points, weights: Tensor) -> Self:
        """Return the queries moved towards changed documents, as `Space.moved` does."""
        changed = self._changed(own_vectors(documents, len(self)))
        space = Space(self.space.kind, changed.shape[-1])
        return self._with({"queries": space.moved(self.queries, changed, weights)})

    def tensors(self) -> dict[str, Tensor]:
        """Return `queries`."""
        return {"queries": self.queries}

    def config(self) -> dict[str, Any]:
        """Return the space and the numbers of the head."""
        return {"space": self.space.to_json(), "head": self.head.plain}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from `queries`, the space and the head."""
        queries = tensors["queries"]
        head = {name: torch.tensor(numbers, device=queries.device) for name, numbers in config["head"].items()}
        return cls(Space.from_json(config["space"]), queries, DocumentHead(**head))

    def detach(self) -> Self:
        """Return the scorer cut from the graph that computed it, its head included."""
        return type(self)(self.space, self.queries.detach(), self.head.detach()).with_options(self.options)

    def _with(self, tensors: Mapping[str, Tensor]) -> Self:
        queries = tensors["queries"]
        head = self.head if queries.device == self.queries.device else self.head.to(queries.device)
        return type(self)(self.space, queries, head).with_options(self.options)


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
