"""Generated heads: changes of base vectors whose numbers a hypernetwork makes from a task card.

A head changes `x` to `x + change(x, numbers)`. At its start every head of ours is exactly the identity, bit by bit, and
everything that can be learned has a gradient other than zero. For a product of two factors these exclude each other if
one factor is zero: then the other has no gradient, and if both are, as in Hydra, neither ever moves. So factors start
at a random, shared and learned value, and the product of their frozen starts is subtracted:
`x (A₀ + a)(B₀ + b) - x A₀' B₀'`, where a card gives `a` and `b`.

Shapes: `N` vectors, `d` numbers of each, `r` the rank, `P` numbers of a card. Vectors are rows.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

HeadName: TypeAlias = Literal["shift", "film", "low_rank", "full", "householder", "hydra", "hydra_projection"]

HYDRA_RANK = 64
"""Rank of Hydra's head, a constant in its code."""

HYDRA_WIDTH = 256
"""Numbers of a vector behind Hydra's older head."""

_EPSILON = 1e-12  # of a norm, as in torch's normalize


class GeneratedHead(nn.Module):
    """A change of vectors by generated numbers; its own parameters are shared by all cards.

    Args:
        dimension: Numbers of a vector, `d`.
        count: Numbers of a card, `P`.

    Attributes:
        width: Numbers of a changed vector.
        gated: Whether a share of the change makes sense, from 0 for none.
    """

    gated = True

    def __init__(self, dimension: int, count: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.count = count
        self.width = dimension

    def start(self) -> Tensor:
        """Return `(P,)` numbers with which a new head is exactly the identity."""
        return torch.zeros(self.count)

    @abstractmethod
    def change(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Return what is added to vectors.

        Args:
            x: `(N, d)`.
            numbers: `(P,)`.

        Returns:
            `(N, d)`.
        """

    def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Return changed vectors, not normalised.

        Args:
            x: `(N, d)`.
            numbers: `(P,)`.

        Returns:
            `(N, width)`.
        """
        return x + self.change(x, numbers)

    def affine(self, numbers: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the head as an affine map.

        Args:
            numbers: `(P,)`.

        Returns:
            `(d, width)` and `(width,)`, so that a vector becomes `x @ matrix + bias`; None for a head that is not
            affine.
        """
        zero = numbers.new_zeros(1, self.dimension)
        bias = self.change(zero, numbers)[0]
        eye = torch.eye(self.dimension, dtype=numbers.dtype, device=numbers.device)
        return eye + (self.change(eye, numbers) - bias), bias


class ShiftHead(GeneratedHead):
    """`x + b`: one vector added to all, which is all that Hydra's head learns."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension, dimension)

    def change(self, x: Tensor, numbers: Tensor) -> Tensor:
        """See `GeneratedHead.change`."""
        return numbers.expand_as(x)


class _Started(GeneratedHead):
    """Shared factors, and their frozen starts."""

    def _add(self, name: str, start: Tensor) -> None:
        setattr(self, name, nn.Parameter(start.clone()))
        self.register_buffer(f"{name}_start", start)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return getattr(self, name), getattr(self, f"{name}_start")


class FilmHead(_Started):
    """`x + scale ⊙ (x A B) + shift`: a card gives scale and shift for a shared map of low rank.

    Feature-wise modulation, as in Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer" (2018).
    """

    def __init__(self, dimension: int, rank: int, generator: torch.Generator) -> None:
        super().__init__(dimension, 2 * dimension)
        self._add("left", _normal(dimension, rank, generator))
        self._add("right", _normal(rank, dimension, generator))
        self._add("gamma", torch.ones(dimension))

    def change(self, x: Tensor, numbers: Tensor) -> Tensor:
        """See `GeneratedHead.change`."""
        (left, left_start), (right, right_start) = self._pair("left"), self._pair("right")
        gamma, gamma_start = self._pair("gamma")
        scale, shift = torch.split(numbers, self.dimension)
        return (gamma + scale) * (x @ left @ right) - gamma_start * (x @ left_start @ right_start) + shift


class LowRankHead(_Started):
    """`x + x A B + b`, where a card gives `A`, `B` and `b`."""

    def __init__(self, dimension: int, rank: int, generator: torch.Generator) -> None:
        super().__init__(dimension, (2 * rank + 1) * dimension)
        self.rank = rank
        self._add("left", _normal(dimension, rank, generator))
        self._add("right", _normal(rank, dimension, generator))

    def change(self, x: Tensor, numbers: Tensor) -> Tensor:
        """See `GeneratedHead.change`."""
        (left, left_start), (right, right_start) = self._pair("left"), self._pair("right")
        size = self.dimension * self.rank
        own_left, own_right, shift = torch.split(numbers, [size, size, self.dimension])
        product = x @ (left + own_left.view_as(left)) @ (right + own_right.view_as(right))
        return product - x @ left_start @ right_start + shift


class FullHead(GeneratedHead):
    """`x + x W + b`, where a card gives all of `W` and `b`."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension, dimension * (dimension + 1))

    def change(self, x: Tensor, numbers: Tensor) -> Tensor:
        """See `GeneratedHead.change`."""
        matrix, shift = torch.split(numbers, [self.dimension**2, self.dimension])
        return x @ matrix.view(self.dimension, self.dimension) + shift


class HouseholderHead(GeneratedHead):
    """A rotation: products of pairs of reflections, so that lengths and the angles between vectors stay.

    Two reflections, by `u` and then by `v`, turn vectors in the plane of both by twice their angle, and are the
    identity if they are equal. With `δ = û - v̂` their product is `I - 2 (û δᵀ - δ v̂ᵀ) - 2 |δ|² û v̂ᵀ`: in this form it
    is exactly the identity where `δ` is 0, which a product of rounded reflections is not.
    """

    def __init__(self, dimension: int, rank: int, generator: torch.Generator) -> None:
        super().__init__(dimension, 2 * rank * dimension)
        self.rank = rank
        start = _normal(rank, dimension, generator)
        self.first = nn.Parameter(start.clone())
        self.second = nn.Parameter(start.clone())

    def change(self, x: Tensor, numbers: Tensor) -> Tensor:
        """See `GeneratedHead.change`."""
        own = numbers.view(2, self.rank, self.dimension)
        firsts, seconds = _directions(self.first + own[0]), _directions(self.second + own[1])
        total = torch.zeros_like(x)
        for first, second in zip(firsts, seconds, strict=True):
            turned, difference = x + total, first - second
            along = turned @ first
            total = total - 2 * (torch.outer(along, difference) - torch.outer(turned @ difference, second))
            total = total - 2 * difference.square().sum() * torch.outer(along, second)
        return total


class HydraHead(GeneratedHead):
    """Hydra's residual head, `x + alpha (x A B + b)`, alpha the sigmoid of the last number, at its rank of 64.

    Its generator starts at zero, so that both factors do, and neither ever has a gradient: it learns `b` and
    alpha alone.
    """

    gated = False

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension, (2 * HYDRA_RANK + 1) * dimension + 1)

    def parts(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `A` `(d, 64)`, `B` `(64, d)`, `b` `(d,)` and alpha, 0-dim."""
        size = self.dimension * HYDRA_RANK
        left, right, shift, alpha = torch.split(numbers, [size, size, self.dimension, 1])
        return left.view(-1, HYDRA_RANK), right.view(HYDRA_RANK, -1), shift, alpha.sigmoid()[0]

    def change(self, x: Tensor, numbers: Tensor) -> Tensor:
        """See `GeneratedHead.change`."""
        left, right, shift, alpha = self.parts(numbers)
        return alpha * (x @ left @ right + shift)


class HydraProjectionHead(GeneratedHead):
    """Hydra's older head: `LN(x W + b) ⊙ (1 + scale) + shift` with 256 numbers, never the identity.

    `LN` is layer normalisation without parameters. Queries and documents both need it, since it leaves their space.
    """

    gated = False

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension, HYDRA_WIDTH * (dimension + 3))
        self.width = HYDRA_WIDTH

    def parts(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `W` `(d, 256)`, `b`, scale and shift, `(256,)` each."""
        matrix, bias, scale, shift = torch.split(numbers, [self.dimension * HYDRA_WIDTH, *[HYDRA_WIDTH] * 3])
        return matrix.view(self.dimension, HYDRA_WIDTH), bias, scale, shift

    def change(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Not of this head, which replaces a vector by one of another size."""
        raise NotImplementedError

    def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Return projected vectors `(N, 256)`, not normalised."""
        matrix, bias, scale, shift = self.parts(numbers)
        return nn.functional.layer_norm(x @ matrix + bias, (HYDRA_WIDTH,)) * (1 + scale) + shift

    def affine(self, numbers: Tensor) -> None:
        """Return None: layer normalisation is not affine."""


def build_head(name: HeadName, dimension: int, *, rank: int, seed: int) -> GeneratedHead:
    """Build a head.

    Args:
        name: Its kind.
        dimension: Numbers of a vector.
        rank: Of `film` and `low_rank`; pairs of reflections of `householder`; the others have none.
        seed: Of the shared starts.

    Returns:
        The head, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds: dict[str, Callable[[], GeneratedHead]] = {
        "shift": lambda: ShiftHead(dimension),
        "film": lambda: FilmHead(dimension, rank, generator),
        "low_rank": lambda: LowRankHead(dimension, rank, generator),
        "full": lambda: FullHead(dimension),
        "householder": lambda: HouseholderHead(dimension, rank, generator),
        "hydra": lambda: HydraHead(dimension),
        "hydra_projection": lambda: HydraProjectionHead(dimension),
    }
    return kinds[name]()


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return normal numbers with which a unit vector becomes one of about unit norm, or shorter."""
    return torch.randn(rows, columns, generator=generator) / math.sqrt(max(rows, columns))


def _directions(vectors: Tensor) -> list[Tensor]:
    return list(nn.functional.normalize(vectors, dim=-1, eps=_EPSILON))
