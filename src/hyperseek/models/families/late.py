"""LateRetriever: a multi-vector model of sentence-transformers (ColBERT, late interaction) seen as a Retriever.

Documents become token points, queries sets of token vectors, and MaxSim compares them. Which tokens count is for the
model's own modules to say: skiplists, query expansion and token pooling are theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from sentence_transformers.sentence_transformer.modules import Normalize

from hyperseek import geometry
from hyperseek._fingerprint import fingerprint_json
from hyperseek.errors import InputError
from hyperseek.models.retriever import Retriever, Side
from hyperseek.scoring import MaxSimScorer, Points, TokenPoints

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

    from hyperseek.scoring._maxsim import Masking

_SIMILARITIES = ("maxsim", "meanmaxsim")


class LateRetriever(Retriever):
    """A model that encodes a document to one vector a token, and compiles queries to a `MaxSimScorer`.

    `load` returns one for every multi-vector checkpoint; from a model in memory it is made directly.

    Args:
        model: The module container.
        source: The path or name it came from, which an index remembers.
        masking: `"exact"`, or `"pylate"` to score as PyLate does; see `MaxSimScorer`.

    Attributes:
        masking: As given; may be changed.

    Raises:
        InputError: The model's similarity is not known here.
    """

    model: MultiVectorEncoder  # type: ignore[assignment]  # its own archetype beside SentenceTransformer

    def __init__(self, model: MultiVectorEncoder, *, source: str | None = None, masking: Masking = "exact") -> None:
        super().__init__(model, source=source)  # type: ignore[arg-type]
        self.masking = masking

    def points(self, features: dict[str, Any]) -> TokenPoints:
        """Return the token points that a finished document route describes; differentiable."""
        return TokenPoints.from_padded(self._tokens(features, "document"), features["attention_mask"])

    def scorer(self, features: dict[str, Any], options: Mapping[str, Any] | None = None) -> MaxSimScorer:
        """Return the scorer that a finished query route describes; differentiable."""
        self.check_options(options)
        mask = features["attention_mask"].float()
        if self.model.similarity_fn_name == "meanmaxsim":
            mask = mask / mask.sum(dim=1, keepdim=True).clamp_min(1)  # a query without tokens scores 0
        return MaxSimScorer(self.space, self._tokens(features, "query"), mask, masking=self.masking)

    def encode_documents(
        self, texts: Sequence[str], *, dtype: str = "auto", batch_tokens: int | None = None
    ) -> TokenPoints:
        """Encode documents to token points, in the order of `texts`, float32, on the CPU; see `Retriever`."""
        return cast("TokenPoints", super().encode_documents(texts, dtype=dtype, batch_tokens=batch_tokens))

    def protocol(self) -> dict[str, Any]:
        """Return what a measured result must carry, with how tokens are compared."""
        return {
            **super().protocol(),
            "similarity": self.model.similarity_fn_name,
            "masking": self.masking,
            "query_expansion": self._expansion(),
        }

    def _space_kind(self) -> str:
        if self.model.similarity_fn_name not in _SIMILARITIES:
            raise InputError(
                f"the model compares by {self.model.similarity_fn_name!r}; late interaction knows "
                f"{', '.join(_SIMILARITIES)}"
            )
        return "tokens"

    def _gather(self, batches: Iterable[tuple[list[int], Points]], count: int) -> TokenPoints:
        positions: list[int] = []
        parts = [TokenPoints(torch.zeros(0, self.space.dimension), torch.zeros(1, dtype=torch.int64))]
        for batch, points in batches:
            positions.extend(batch)
            parts.append(cast("TokenPoints", points.to("cpu")))
        order = torch.tensor(positions, dtype=torch.int64).argsort()
        return TokenPoints.concatenate(parts)[order]

    def _tokens(self, features: dict[str, Any], side: Side) -> torch.Tensor:
        tokens: torch.Tensor = features["token_embeddings"]
        if tokens.dtype == torch.float32 or not isinstance(self.route(side)[-1], Normalize):
            return tokens.float()
        return geometry.unit_vectors(tokens)  # half precision leaves norms that are off by a thousandth

    def _expansion(self) -> dict[str, Any] | None:
        return getattr(self.route("query")[0], "query_expansion", None)

    def _lengths(self) -> dict[str, int | None]:
        expansion = self._expansion()
        lengths = super()._lengths()
        return lengths if expansion is None else {**lengths, "query": expansion["length"] or lengths["query"]}

    def _side_fingerprint(self, side: Side) -> str:
        name = super()._side_fingerprint(side)
        return name if side == "document" else fingerprint_json([name, self._expansion()])
