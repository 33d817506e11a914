"""A retriever as an mteb encoder.

mteb also takes a saved model itself, as a `SentenceTransformer`: queries and documents are then compared by a plain
inner product of float32 coordinates. Here they are compared by the space's own, exact similarity, and encoded in
batches of similar length, with the model's prompts and lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperseek.errors import InputError, require
from hyperseek.geometry.euclidean import cosine_similarity, unit_vectors
from hyperseek.models import Retriever
from hyperseek.scoring import LinearScorer, VectorPoints, vectors_of

if TYPE_CHECKING:
    import numpy as np


class MtebEncoder:
    """An mteb encoder: `mteb.evaluate(MtebEncoder(load(...)), tasks)`.

    Retrieval and reranking compare queries with documents as the model does. All other tasks get one vector per text
    (see `Retriever.encode_features`): for hyperbolic models the logarithmic map at the origin, compared by the cosine.

    Args:
        retriever: A model whose queries are points.
        name: Name of the results, as in `"ours/lorentz-minilm"`; None takes the model's source.
        options: Options of the model for every query, as in `{"level": 2}`; results record them too.

    Attributes:
        mteb_model_meta: The model's description for mteb.
        options: The options, checked by the model.

    Raises:
        InputError: The model's queries are not points, or it does not understand an option.
    """

    def __init__(
        self, retriever: Retriever, *, name: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        mteb = require("mteb.models.model_meta", extra="mteb")
        self.options = retriever.check_options(options)
        if not isinstance(retriever.compile(["a"], self.options), LinearScorer):
            raise InputError(
                "mteb compares vectors, but this model compiles queries to functions; "
                "measure it with `hyperseek evaluate`"
            )
        self.retriever = retriever
        stem = (name or retriever.source or "model").strip("/").split("/")[-2:]
        self.mteb_model_meta = mteb.ModelMeta.create_empty(
            overwrites={
                "name": "/".join(["hyperseek", *stem][-2:]),
                "revision": retriever.fingerprint[:16],
                "embed_dim": retriever.space.dimension,
                "loader": type(self),
                "experiment_kwargs": self.options.to_json() or None,
            }
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray[Any, Any]:
        """Encode texts.

        Args:
            inputs: Batches with a list of `text`.
            task_metadata: Ignored.
            hf_split: Ignored.
            hf_subset: Ignored.
            prompt_type: Whether the texts are queries, documents, or neither.
            **kwargs: Ignored.

        Returns:
            `(N, w)` stored points of queries and documents, `(N, d)` vectors of other texts.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        side = getattr(prompt_type, "value", prompt_type)
        if side == "query":
            return self._queries(texts).numpy()
        if side == "document":
            return vectors_of(self.retriever.encode_documents(texts)).numpy()
        return self.retriever.encode_features(texts).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return `(Q, N)` similarities of results of `encode`; higher is better."""
        queries, documents = torch.as_tensor(embeddings1), torch.as_tensor(embeddings2)
        if self._are_points(queries, documents):
            return self.retriever.space.score(queries, VectorPoints(documents))
        return cosine_similarity(queries, documents)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the `(N,)` similarities of rows."""
        queries, documents = torch.as_tensor(embeddings1), torch.as_tensor(embeddings2)
        if self._are_points(queries, documents):
            return self.retriever.space.score_own(queries, documents[:, None])[:, 0]
        return (unit_vectors(queries) * unit_vectors(documents)).sum(dim=-1)

    def _are_points(self, *vectors: Tensor) -> bool:
        # Tangent vectors of a hyperbolic space have two numbers fewer than its stored points.
        return all(part.shape[-1] == self.retriever.space.width for part in vectors)

    def _queries(self, texts: list[str]) -> Tensor:
        vectors = [scorer.linear() for scorer in self.retriever.compile_batches(texts, self.options)]
        found = [part.cpu() for part in vectors if part is not None]
        return torch.cat(found) if found else torch.zeros(0, self.retriever.space.width)
