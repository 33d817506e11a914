"""Scorers from outside: a function of yours, or an ONNX model that reads the vectors of a query and of documents.

Engines cannot search by either directly; `surrogate` makes that possible for both.

Shapes: `Q` queries, `N` documents, `n` documents of each query's own, `w` numbers in a stored point.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek._files import reading
from hyperseek.errors import InputError, ModelError, brief, require
from hyperseek.scoring._points import Points, own_documents, vectors_of
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space


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
