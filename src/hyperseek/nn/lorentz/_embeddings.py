"""Token embeddings, lifted onto the hyperboloid."""

from __future__ import annotations

from torch import Tensor, nn

from hyperseek.geometry import lorentz_from_space


class LorentzEmbeddings(nn.Module):
    """Sum the space parts of tokens, and where there are any of positions and types, and lift them.

    Args:
        size: Coordinates of a point, time included.
        vocabulary: Number of tokens.
        padding: The token whose embedding is zero and stays so; None for none.
        positions: Most tokens of a text, where positions have embeddings; 0 where they are rotary.
        types: Token types; 0 for none.
    """

    def __init__(
        self, size: int, vocabulary: int, *, padding: int | None = None, positions: int = 0, types: int = 0
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, size - 1, padding_idx=padding)
        self.position_embeddings = nn.Embedding(positions, size - 1) if positions else None
        self.token_type_embeddings = nn.Embedding(types, size - 1) if types else None

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor | None = None,
        radius_squared: float | Tensor = 1.0,
    ) -> Tensor:
        """Return the points `(B, S, d)` of `(B, S)` tokens; types are 0 where none are given."""
        space = self.word_embeddings(input_ids)
        if self.position_embeddings is not None:
            space = space + self.position_embeddings(position_ids)
        if self.token_type_embeddings is not None:
            types = input_ids.new_zeros(1, 1) if token_type_ids is None else token_type_ids
            space = space + self.token_type_embeddings(types)
        return lorentz_from_space(space, radius_squared)
