"""Projection of a trunk's states to tangent vectors of a hyperbolic space, whose curvature may be trained.

The lift of "HypRAG" (arXiv 2602.07739), HyTE-H: de-layer-norm, projection, norm scaling, norm clip. The radius head is
our own option: trunks end with a layer norm, after which all states have about the same norm, and points would lie
equally far from the origin, which leaves no room for a hierarchy.

Shapes: `m` trunk width, `d` dimension of the space.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn

from hyperseek.errors import InputError, UnknownNameError

Projection = Literal["linear", "mlp"]
Start = Literal["orthogonal", "normal"]
Radius = Literal["projection", "head"]
_MLP_LAYERS = 3


class DeLayerNorm(nn.Module):
    """Give layer-normalised states individual norms again: normalised states, times 1 + a linear map.

    Args:
        size: Trunk width.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(size)
        self.learnable_norm_scaler = nn.Linear(size, 1, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Return `(..., m)`."""
        scaled: Tensor = self.layer_norm(states) * (1 + self.learnable_norm_scaler(states))
        return scaled


class TangentProjection(nn.Module):
    """Map states to tangent vectors whose norm is at most `norm_clip`: their distance from the origin once lifted.

    Args:
        size: Trunk width `m`.
        dimension: Of the space, `d`.
        projection: `"linear"`, or `"mlp"`: three layers with GELU, as wide as the trunk.
        start: Initial linear maps: `"orthogonal"` preserves angles if `d = m` (nearly so below), so that a new model
            of vectors of equal norm ranks like its trunk; `"normal"` draws with standard deviation 0.02.
        norm_scale: Factor of projected vectors; None takes the original's 1 / sqrt(d + 1).
        trainable_norm_scale: Whether the factor is trained. It stays below 1, or below its initial value if larger.
        norm_clip: Maximum norm of a tangent vector, positive.
        de_layer_norm: Whether states go through `DeLayerNorm` first.
        radius: `"projection"` takes the norm of the projected vector, `"head"` predicts it from the state.
        radius_start: Initial prediction of a radius head, positive; at most `norm_clip`.
        seed: Seed of the draw; the global random state is not touched.

    Raises:
        InputError: A number is out of range.
        UnknownNameError: There is no such projection, start or radius.
    """

    def __init__(
        self,
        size: int,
        dimension: int,
        *,
        projection: Projection = "linear",
        start: Start = "orthogonal",
        norm_scale: float | None = None,
        trainable_norm_scale: bool = False,
        norm_clip: float = 10.0,
        de_layer_norm: bool = False,
        radius: Radius = "projection",
        radius_start: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check("projection", projection, ("linear", "mlp"))
        _check("start", start, ("orthogonal", "normal"))
        _check("radius", radius, ("projection", "head"))
        if not 0 < radius_start <= norm_clip < math.inf:
            raise InputError(f"radius_start must lie in (0, {norm_clip}], the norm clip, not {radius_start}")
        scale = (dimension + 1) ** -0.5 if norm_scale is None else norm_scale
        self.norm_clip = norm_clip
        self.largest_scale = max(1.0, scale)
        self.clipped: Tensor | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.delayer_norm = DeLayerNorm(size) if de_layer_norm else nn.Identity()
            self.projection = _projection(size, dimension, projection, start)
            self.radius_head = nn.Linear(size, 1) if radius == "head" else None
        if self.radius_head is not None:
            nn.init.zeros_(self.radius_head.weight)
            nn.init.constant_(self.radius_head.bias, math.log(math.expm1(radius_start)))
        # A radius head leaves nothing to scale, and a parameter without a gradient stops data-parallel training.
        trained = trainable_norm_scale and self.radius_head is None
        self.norm_scaler = nn.Parameter(torch.tensor(scale), requires_grad=trained)

    def forward(self, states: Tensor) -> Tensor:
        """Project states.

        Args:
            states: `(..., m)`.

        Returns:
            `(..., d)` tangent vectors in the module's own precision. `clipped`, `(...,)`, then marks those that were
            clipped.
        """
        states = states.to(self.norm_scaler.dtype)
        vectors: Tensor = self.projection(self.delayer_norm(states))
        if self.radius_head is None:
            if self.training and self.norm_scaler.requires_grad:
                self.norm_scaler.data.clamp_(max=self.largest_scale)
            vectors = vectors * self.norm_scaler
        else:
            radius = nn.functional.softplus(self.radius_head(states))
            vectors = nn.functional.normalize(vectors, dim=-1) * radius
        norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        self.clipped = (norms[..., 0] > self.norm_clip).detach()
        clipped: Tensor = vectors * (self.norm_clip / norms.clamp_min(self.norm_clip))
        return clipped


def _projection(size: int, dimension: int, kind: Projection, start: Start) -> nn.Module:
    if kind == "linear":
        layer = nn.Linear(size, dimension)
        _initialise(layer, start)
        return layer
    layers: list[nn.Module] = []
    for number in range(_MLP_LAYERS):
        layer = nn.Linear(size, dimension if number == _MLP_LAYERS - 1 else size)
        _initialise(layer, start)
        layers += [layer, nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _initialise(layer: nn.Linear, start: Start) -> None:
    nn.init.zeros_(layer.bias)
    if start == "orthogonal":
        nn.init.orthogonal_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=0.02)


def _check(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise UnknownNameError(what, given, known)


class FullPrecision(nn.Module):
    """Base of modules whose tensors stay in float32, or wider, when a model is cast to half precision.

    With a rounded curvature, the space would differ from that of existing indexes.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        applied: Self = super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return applied


class Curvature(FullPrecision):
    """R² of a hyperboloid <x, x> = -R², trained or fixed.

    The parameter is log R², which stays in float32 when the model is cast to half precision. In training it is clamped
    to the bounds before it is read, so it never strays far beyond them and can always return.

    Args:
        radius_squared: Initial value.
        trainable: Whether it is a parameter; otherwise it is a buffer, which is saved and loaded likewise.
        least: Lower bound, positive.
        most: Upper bound.

    Raises:
        InputError: The numbers are not in ascending order.
    """

    log_radius_squared: Tensor

    def __init__(
        self, radius_squared: float = 1.0, *, trainable: bool = False, least: float = 0.1, most: float = 10.0
    ) -> None:
        super().__init__()
        if not 0 < least <= radius_squared <= most < math.inf:
            raise InputError(f"radius_squared must lie in [{least}, {most}], its positive bounds, not {radius_squared}")
        self.bounds = (least, most)
        value = torch.tensor(math.log(radius_squared))
        if trainable:
            self.log_radius_squared = nn.Parameter(value)
        else:
            self.register_buffer("log_radius_squared", value)

    @property
    def trainable(self) -> bool:
        """Whether it is a parameter."""
        return "log_radius_squared" not in self._buffers

    def forward(self) -> Tensor:
        """Return R², 0-dim, float32 or float64; differentiable where it is trained."""
        if self.training and self.trainable:
            # Outside of autograd, like an optimiser's step: the graph starts from the clamped value.
            self.log_radius_squared.data.clamp_(*map(math.log, self.bounds))
            return self.log_radius_squared.exp()
        return self.log_radius_squared.clamp(*map(math.log, self.bounds)).exp()

    @property
    def one(self) -> Tensor:
        """1, 0-dim, with the gradient of R divided by R: the plain numbers of a space have no gradient."""
        radius: Tensor = self().sqrt()
        return radius / radius.detach()

    @property
    def radius_squared(self) -> float:
        """R² as a plain number."""
        return float(self.log_radius_squared.detach().clamp(*map(math.log, self.bounds)).exp())
