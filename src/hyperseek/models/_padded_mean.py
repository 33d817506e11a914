"""The original Hypencoder's mean pooling, which also sums padded positions. Only for checkpoints trained with it."""

from __future__ import annotations

from typing import Any

from hyperseek.models._saved_module import SavedModule


class PaddedMeanPooling(SavedModule):
    """Sum over all positions, padding included, divided by the number of real tokens.

    A text's vector therefore depends on the longest text of its batch. Checkpoints that were trained so lose quality
    when pooled correctly; new models should use `Pooling`.

    Args:
        embedding_dimension: Trunk width.
    """

    config_keys = ("embedding_dimension",)  # type: ignore[assignment]  # the base class declares a list

    def __init__(self, embedding_dimension: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.embedding_dimension = embedding_dimension

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Write `sentence_embedding` `(N, d)`."""
        counts = features["attention_mask"].sum(1, keepdim=True)
        features["sentence_embedding"] = features["token_embeddings"].sum(1) / counts
        return features

    def get_embedding_dimension(self) -> int:
        """Return the trunk width."""
        return self.embedding_dimension
