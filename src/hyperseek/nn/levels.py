"""Several levels of one text: pooling, refinement, radii and schedules of the models with levels.

The parts of "Hierarchical Reasoning Embedding Model with Hyperbolic Setup": a text's token states are pooled to one
vector, which a recurrence refines in M segments. The output of segment m is the tangent vector of level m at the origin
of the Poincaré ball, of which only the direction counts; its norm is given by a schedule, or by a radius head. Names of
parameters are the original's, so its checkpoints load unchanged. The recurrence borrows its name from the "Hierarchical
Reasoning Model" (arXiv 2506.21734), whose states are those of transformers. Whether it helps is for a comparison to
say: `LinearLevels` and `MLPLevels` have the same interface.

Shapes: `N` texts, `T` tokens, `m` trunk width, `w` width of the refinement, `d` numbers of a level, `M` levels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from hyperseek.errors import InputError, UnknownNameError, shown

RefinementName: TypeAlias = Literal["hrm", "linear", "mlp"]
LevelsStart: TypeAlias = Literal["trunk", "original"]
_FEWEST_HIDDEN = 32  # of the pooler's score net, as in the original
_SHORTEST = 1e-8  # norm below which a tangent has no direction, as in the original


def radii_of_levels(given: Sequence[float] | str | None, levels: int) -> tuple[float, ...]:
    """Return the tangent norm of each level, the original's `s_scales`; the distance from the origin is twice that.

    Args:
        given: `M` numbers, or a text of numbers separated by commas. None, nothing and an empty text mean 1 to M.
        levels: `M`.

    Returns:
        `M` positive numbers, each larger than the one before.

    Raises:
        InputError: There are not M of them, or they are not positive, finite and rising.
    """
    radii = _numbers("s_scales", given, levels) or tuple(float(level + 1) for level in range(levels))
    if radii[0] <= 0 or any(outer <= inner for inner, outer in itertools.pairwise(radii)):
        raise InputError(
            f"s_scales must be positive and rise from level to level, so that narrower levels lie farther out, not "
            f"{list(radii)}"
        )
    return radii


def weights_of_levels(given: Sequence[float] | str | None, levels: int) -> tuple[float, ...]:
    """Return the weight of each level in a loss, the original's `w_segments`.

    Args:
        given: As for `radii_of_levels`; the default is proportional to the level's number.
        levels: `M`.

    Returns:
        `M` numbers of at least 0, whose sum is 1.

    Raises:
        InputError: There are not M of them, or they are not finite, or below 0, or all 0.
    """
    weights = _numbers("w_segments", given, levels) or tuple(float(level + 1) for level in range(levels))
    if min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise InputError(f"w_segments must be weights of at least 0, not all of them 0, not {list(weights)}")
    return tuple(weight / sum(weights) for weight in weights)


def fine_shares(given: Sequence[float] | str | None, levels: int) -> tuple[float, ...]:
    """Return each level's share of the fine positive in a coarse-to-fine loss, the original's `alpha_segments`.

    Args:
        given: As for `radii_of_levels`; the default rises evenly from 0 at level 1 to 1 at level M.
        levels: `M`.

    Returns:
        `M` numbers in [0, 1].

    Raises:
        InputError: There are not M of them, or one is not in [0, 1].
    """
    even = tuple(level / (levels - 1) for level in range(levels)) if levels > 1 else (1.0,)
    shares = _numbers("alpha_segments", given, levels) or even
    if not all(0 <= share <= 1 for share in shares):
        raise InputError(f"alpha_segments must be shares in [0, 1], not {list(shares)}")
    return shares


def _numbers(name: str, given: Sequence[float] | str | None, levels: int) -> tuple[float, ...]:
    if given is None or (isinstance(given, str) and not given.strip()):
        return ()
    parts: object = given.split(",") if isinstance(given, str) else given
    try:
        # Sets have no order, and truth values are no numbers, though float() takes both.
        if not isinstance(parts, list | tuple) or any(isinstance(part, bool) for part in parts):
            raise TypeError
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} must be numbers, as in [1, 2, 3] or '1,2,3', not {shown(given)}") from None
    if not numbers:
        return ()
    if len(numbers) != levels:
        raise InputError(f"{name} must have a number for each of the {levels} levels, not {len(numbers)} numbers")
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"{name} must be finite numbers, not {list(numbers)}")
    return numbers


class TokenAttentionPooler(nn.Module):
    """Weighted means of token states, with weights from a small network on each state; heads are averaged.

    Args:
        size: Trunk width `m`.
        heads: Number of weightings, at least 1.
        hidden_mult: Hidden width of the network as a multiple of `m`; it has at least 32.
        dropout: Dropout in the network, in [0, 1).
        start: `"trunk"` starts with equal weights, which is mean pooling; `"original"` with a random network.
        seed: Seed of the initial weights; the global random state is not touched.
    """

    def __init__(
        self,
        size: int,
        *,
        heads: int = 1,
        hidden_mult: int = 2,
        dropout: float = 0.0,
        start: LevelsStart = "original",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.heads = heads
        hidden = max(_FEWEST_HIDDEN, hidden_mult * size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.score_net = nn.Sequential(
                nn.LayerNorm(size), nn.Linear(size, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, heads)
            )
            _initialise(self)
        if start == "trunk":
            nn.init.zeros_(self.score_net[-1].weight)  # type: ignore[arg-type]  # a Linear's

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool token states.

        Args:
            states: `(N, T, m)`.
            mask: `(N, T)`, 0 for padding.

        Returns:
            `(N, m)`.
        """
        return torch.einsum("nth,ntm->nm", self.attention(states, mask), states) / self.heads

    def attention(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the `(N, T, heads)` weights of tokens, whose sum is 1 for each text and head."""
        scores: Tensor = self.score_net(states)
        lowest = torch.finfo(scores.dtype).min
        return scores.masked_fill(~mask.bool()[..., None], lowest).softmax(dim=1)


class LevelNetwork(nn.Module):
    """Base of modules that turn one vector of a text into the unscaled tangent vectors of its M levels.

    Args:
        size: Width `m` of its input.
        width: Width `w` of states, the original's `d_hrm`.
        dimension: Numbers `d` of a level; None for `w`. From states they come by a linear map, if given.
        levels: `M`.
        n_cycles: High steps of a level, at least 1.
        t_low: Low steps before each high step, at least 1.
        hidden_mult: Hidden width of the networks of steps as a multiple of `w`.
        grad_window: Low steps at the end of each level that gradients flow through, in a `Refinement`; 0 for all.
        start: `"trunk"`: tangents start as an orthogonal map of the input, equal at all levels; `"original"`: Xavier.
        seed: Seed of the initial weights; the global random state is not touched.
    """

    def __init__(
        self,
        size: int,
        width: int,
        dimension: int | None = None,
        *,
        levels: int = 4,
        n_cycles: int = 2,
        t_low: int = 2,
        hidden_mult: int = 4,
        grad_window: int = 0,
        start: LevelsStart = "original",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.levels, self.n_cycles, self.t_low, self.grad_window = levels, n_cycles, t_low, grad_window
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._make(size, width, dimension, hidden_mult * width)
            _initialise(self)
            if start == "trunk":
                self._start_at_input()

    def forward(self, vectors: Tensor) -> Tensor:
        """Return `(N, M, d)` tangents of `(N, m)` vectors."""
        raise NotImplementedError

    def _make(self, size: int, width: int, dimension: int | None, hidden: int) -> None:
        """Make the layers."""
        raise NotImplementedError

    def _start_at_input(self) -> None:
        """Make tangents the input, turned."""
        raise NotImplementedError


class _Steps(LevelNetwork):
    """A network whose state is refined by steps, and gives a tangent after those of each level."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return `(N, M, d)` tangents of `(N, m)` vectors."""
        given = self.in_proj(vectors)
        tangents = torch.stack([self.out_proj(state) + given for state in self._states(given)], dim=1)
        return tangents if self.narrow is None else self.narrow(tangents)

    def _make(self, size: int, width: int, dimension: int | None, hidden: int) -> None:
        self.in_proj = nn.Linear(size, width)
        self._make_steps(width, hidden)
        self.out_proj = nn.Linear(width, width)
        self.narrow = None if dimension is None else nn.Linear(width, dimension, bias=False)

    def _make_steps(self, width: int, hidden: int) -> None:
        raise NotImplementedError

    def _states(self, given: Tensor) -> Iterator[Tensor]:
        """Yield the `(N, w)` state of each level from the `(N, w)` input."""
        raise NotImplementedError

    def _start_at_input(self) -> None:
        # What the steps add is 0 before the first step of training.
        nn.init.orthogonal_(self.in_proj.weight)
        nn.init.zeros_(self.out_proj.weight)
        if self.narrow is not None:
            nn.init.orthogonal_(self.narrow.weight)


class Refinement(_Steps):
    """The recurrence of the original: two states, a fast and a slow one, refined segment by segment.

    A low step adds a network of (low state, high state, input) to the low state; a high step, after every `t_low` low
    steps, adds one of (high state, low state) to the high state. After each segment of `n_cycles` times `t_low` low
    steps the high state gives a level's tangent. States pass to the next segment detached, so every segment trains by
    itself, and the initial states learn from the first one only. With a `grad_window` of fewer low steps than a segment
    has, the initial states get no gradient and are not trained.
    """

    def _make_steps(self, width: int, hidden: int) -> None:
        self.low_steps = self.n_cycles * self.t_low
        self.free_steps = self.low_steps - self.grad_window if 0 < self.grad_window < self.low_steps else 0
        self.low_mlp = _network(3 * width, hidden, width)
        self.high_mlp = _network(2 * width, hidden, width)
        # A parameter that never gets a gradient would stop data-parallel training.
        self.z0_H = nn.Parameter(torch.zeros(1, width), requires_grad=not self.free_steps)
        self.z0_L = nn.Parameter(torch.zeros(1, width), requires_grad=not self.free_steps)

    def _states(self, given: Tensor) -> Iterator[Tensor]:
        high, low = self.z0_H.expand_as(given), self.z0_L.expand_as(given)
        for _ in range(self.levels):
            high, low = self._segment(given, high, low)
            yield high
            high, low = high.detach(), low.detach()

    def _segment(self, given: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        for step in range(self.low_steps):
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= self.free_steps):
                low = low + self.low_mlp(torch.cat([low, high, given], dim=-1))
                if (step + 1) % self.t_low == 0:
                    high = high + self.high_mlp(torch.cat([high, low], dim=-1))
        return high, low


class LinearLevels(LevelNetwork):
    """A linear map per level, without states or steps: the plainest baseline of `Refinement`."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return `(N, M, d)` tangents of `(N, m)` vectors."""
        return torch.stack([level(vectors) for level in self.maps], dim=1)

    def _make(self, size: int, width: int, dimension: int | None, hidden: int) -> None:
        self.maps = nn.ModuleList(nn.Linear(size, dimension or width) for _ in range(self.levels))

    def _start_at_input(self) -> None:
        first, *others = self.maps
        nn.init.orthogonal_(first.weight)  # type: ignore[arg-type]  # a Linear's
        for other in others:
            other.load_state_dict(first.state_dict())


class MLPLevels(_Steps):
    """A plain residual network as deep as a `Refinement`, and with about as many parameters.

    It has a block for every low and high step of all segments, each with weights of its own, and so a smaller hidden
    width; gradients flow through all of them. Level m reads the state after the blocks of m segments.
    """

    def _make_steps(self, width: int, hidden: int) -> None:
        self.blocks_per_level = self.n_cycles * self.t_low + self.n_cycles
        count = self.levels * self.blocks_per_level
        networks = _network(3 * width, hidden, width), _network(2 * width, hidden, width)
        wanted = sum(weight.numel() for network in networks for weight in network.parameters())
        narrower = max(1, round((wanted / count - 3 * width) / (2 * width + 1)))
        self.blocks = nn.ModuleList(_network(width, narrower, width) for _ in range(count))

    def _states(self, given: Tensor) -> Iterator[Tensor]:
        state = given
        for number, block in enumerate(self.blocks, start=1):
            state = state + block(state)
            if number % self.blocks_per_level == 0:
                yield state


_NETWORKS: Mapping[str, type[LevelNetwork]] = {"hrm": Refinement, "linear": LinearLevels, "mlp": MLPLevels}


def build_levels(
    refinement: RefinementName, size: int, width: int, dimension: int | None = None, **options: Any
) -> LevelNetwork:
    """Make a `Refinement` or one of its baselines.

    Args:
        refinement: `"hrm"`, `"linear"` or `"mlp"`.
        size: Width of the input.
        width: Width of states.
        dimension: Numbers of a level; None for `width`.
        **options: The other arguments of a `LevelNetwork`.

    Returns:
        The module.

    Raises:
        UnknownNameError: There is no such refinement.
    """
    if refinement not in _NETWORKS:
        raise UnknownNameError("refinement", refinement, _NETWORKS)
    return _NETWORKS[refinement](size, width, dimension, **options)


class RadiusHead(nn.Module):
    """Place each text within the band of each level: general texts can lie inward, specific ones farther out.

    The band of a level reaches from its scheduled tangent norm to the middles between it and its neighbours, at a
    `band` of 1; level 1 has the origin for an inner neighbour, level M one as far out as its inner one is in. All texts
    start at the schedule.

    Args:
        size: Width `m` of its input.
        radii: The schedule, `M` rising positive tangent norms.
        band: Width of the bands as a multiple of that; above 1 they overlap.
        seed: Seed of the initial weights; the global random state is not touched.

    Raises:
        InputError: `band` is not above 0 and below 2, where the first one would reach the origin.
    """

    def __init__(self, size: int, radii: Sequence[float], *, band: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        if not 0 < band < 2:
            raise InputError(f"a radius band must be above 0 and below 2, not {band}")
        inner = [0.0, *radii[:-1]]
        middle = torch.tensor(list(radii), dtype=torch.float64)
        below = (middle - torch.tensor(inner, dtype=torch.float64)) / 2 * band
        above = torch.cat([below[1:], below[-1:]])
        self.register_buffer("least", (middle - below).float(), persistent=False)
        self.register_buffer("width", (below + above).float(), persistent=False)
        self.register_buffer("offset", torch.logit(below / (below + above)).float(), persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = _network(size, size, len(radii))
            _initialise(self)
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]  # a Linear's

    least: Tensor
    width: Tensor
    offset: Tensor

    def forward(self, vectors: Tensor) -> Tensor:
        """Return `(N, M)` tangent norms, each within its level's band, of `(N, m)` vectors."""
        return self.least + self.width * torch.sigmoid(self.net(vectors) + self.offset)


def at_radius(tangents: Tensor, radii: Tensor) -> Tensor:
    """Give tangents their norms: s h / max(|h|, 1e-8).

    Args:
        tangents: `(..., M, d)`.
        radii: `(M,)` or `(..., M)` norms.

    Returns:
        `(..., M, d)`; a tangent of zero stays zero.
    """
    return nn.functional.normalize(tangents, dim=-1, eps=_SHORTEST) * radii[..., None]


def shortened(tangents: Tensor, longest: float) -> Tensor:
    """Return tangents `(..., d)` with those beyond a norm cut to it."""
    norms: Tensor = torch.linalg.vector_norm(tangents, dim=-1, keepdim=True)
    factors: Tensor = longest / norms.clamp_min(longest)
    return tangents * factors


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
