"""The sentence-transformers module that lifts a trunk's vectors into hyperbolic space.

It is the last module of both sides, and what it writes depends on the side, so that ordinary tools do the right thing:

| called as | `sentence_embedding` | good for |
|---|---|---|
| `encode_document` | `(time, space)`, a point of the hyperboloid | an index of plain inner products |
| `encode_query` | `(-time, space)` | its queries: their inner product ranks as the distance does |
| `encode` | the logarithmic map, a vector of the tangent space at the origin | classification, clustering, similarity |

`Retriever` takes the sign back and compares exactly. A mix-up of `encode` and the others is an error, not a wrong
ranking: they differ in size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal, Self, TypeAlias

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

from hyperseek import geometry
from hyperseek._errors import UnknownNameError
from hyperseek.nn import Curvature, TangentProjection
from hyperseek.nn._tangent_projection import Projection, Radius, Start
from hyperseek.scoring import LinearScorer, Points, Space
from hyperseek.scoring._space import Similarity

Distance: TypeAlias = Literal["geodesic", "squared_lorentz", "lorentz_inner", "dot", "cosine", "euclidean"]
_SIMILARITIES: dict[str, Similarity] = {"geodesic": "geodesic", "squared_lorentz": "squared", "lorentz_inner": "inner"}
_FLAT = ("dot", "cosine", "euclidean")
_HALF = (torch.float16, torch.bfloat16)


class LorentzHead(Module):
    """Projection, norm clip and lift behind a trunk: the last module of both routes of a hybrid encoder.

    Reads `sentence_embedding`; writes points to it. Everything in it is float32, whatever autocast says and whatever
    the model is cast to.

    Args:
        token_size: Trunk width.
        dimension: Of the space; points have one coordinate more. None takes the trunk's width.
        distance: What points are compared by: `"geodesic"`, `"squared_lorentz"` or `"lorentz_inner"`, or for a flat
            twin that is not lifted, with the same parameters, `"dot"`, `"cosine"` or `"euclidean"`.
        radius_squared: R² of the hyperboloid, where it starts.
        trainable_curvature: Whether R² is trained.
        radius_squared_min: Lower bound of R², positive.
        radius_squared_max: Upper bound of R².
        projection: See `hyperseek.nn.TangentProjection`, as for all that follow.
        start: See there.
        norm_scale: See there.
        trainable_norm_scale: See there.
        norm_clip: See there.
        de_layer_norm: See there.
        radius: See there.
        radius_start: See there.
        seed: Seed of the initialisation.

    Raises:
        UnknownNameError: There is no such distance.
    """

    config_keys = (  # type: ignore[assignment]  # the base class declares a list, and only iterates
        "token_size",
        "dimension",
        "distance",
        "radius_squared",
        "trainable_curvature",
        "radius_squared_min",
        "radius_squared_max",
        "projection",
        "start",
        "norm_scale",
        "trainable_norm_scale",
        "norm_clip",
        "de_layer_norm",
        "radius",
        "radius_start",
        "seed",
    )
    forward_kwargs = {"task"}  # noqa: RUF012  # as the base class declares it
    reads_tokens = False

    def __init__(
        self,
        token_size: int,
        dimension: int | None = None,
        *,
        distance: Distance = "geodesic",
        radius_squared: float = 1.0,
        trainable_curvature: bool = False,
        radius_squared_min: float = 0.1,
        radius_squared_max: float = 10.0,
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
        super().__init__()  # type: ignore[no-untyped-call]
        if distance not in _SIMILARITIES and distance not in _FLAT:
            raise UnknownNameError("distance", distance, [*_SIMILARITIES, *_FLAT])
        self.token_size = token_size
        self.dimension = dimension or token_size
        self.distance = distance
        self.radius_squared = radius_squared
        self.trainable_curvature = trainable_curvature
        self.radius_squared_min = radius_squared_min
        self.radius_squared_max = radius_squared_max
        self.projection = projection
        self.start = start
        self.norm_scale = norm_scale
        self.trainable_norm_scale = trainable_norm_scale
        self.norm_clip = norm_clip
        self.de_layer_norm = de_layer_norm
        self.radius = radius
        self.radius_start = radius_start
        self.seed = seed
        self.curvature = Curvature(
            radius_squared,
            trainable=trainable_curvature and self.curved,
            least=radius_squared_min,
            most=radius_squared_max,
        )
        self.tangent = TangentProjection(
            token_size,
            self.dimension,
            projection=projection,
            start=start,
            norm_scale=norm_scale,
            trainable_norm_scale=trainable_norm_scale,
            norm_clip=norm_clip,
            de_layer_norm=de_layer_norm,
            radius=radius,
            radius_start=radius_start,
            seed=seed,
        )

    @property
    def curved(self) -> bool:
        """Whether vectors are lifted."""
        return self.distance in _SIMILARITIES

    @property
    def space(self) -> Space:
        """The geometry of the points, with the curvature as it is now."""
        if not self.curved:
            return Space(self.distance, self.dimension)
        return Space("lorentz", self.dimension, self.curvature.radius_squared, _SIMILARITIES[self.distance])

    @property
    def base_space(self) -> Space:
        """The geometry of the trunk's own vectors, for losses that read what the trunk thought."""
        return Space("cosine", self.token_size)

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Replace `sentence_embedding` by points.

        Args:
            features: With `sentence_embedding`, `(N, m)`.
            task: `"query"`, `"document"`, or anything else for the logarithmic map.
            **kwargs: Ignored.

        Returns:
            The features.
        """
        vectors = features["sentence_embedding"]
        with torch.autocast(vectors.device.type, enabled=False):
            tangent = self.tangent(vectors)
            features["sentence_embedding"] = self._points(tangent, task) if self.curved else tangent
        return features

    def _points(self, tangent: Tensor, task: str | None) -> Tensor:
        if task not in ("query", "document"):
            return tangent
        points = _expmap0(tangent, self.curvature())
        return flip_time(points) if task == "query" else points

    def points(self, rows: Tensor) -> Points:
        """Return the points of `(N, d + 1)` rows of the document side; differentiable, in the curvature too."""
        if not self.curved:
            return Points(self.space.canonical(rows))
        return Points(self.space.canonical(rows / self._one()))

    def scorer(self, rows: Tensor) -> LinearScorer:
        """Return the scorer of `(Q, d + 1)` rows of the query side; differentiable, in the curvature too."""
        if not self.curved:
            return LinearScorer(self.space, self.space.canonical(rows))
        one = self._one()
        # Distances grow with R and the other two with R²; what polar points alone give is all that is left.
        factor = one if self.distance == "geodesic" else one.square()
        queries = self.space.canonical(flip_time(rows) / one)
        return LinearScorer(self.space, queries, factor=factor if factor.requires_grad else None)

    def diagnostics(self) -> dict[str, Tensor]:
        """Return what a training run should log: R², and which share of the last vectors the norm clip shortened."""
        values = {"radius_squared": self.curvature().detach()} if self.curved else {}
        clipped = self.tangent.clipped
        return values if clipped is None else {**values, "clipped": clipped.float().mean()}

    def _one(self) -> Tensor:
        """Return 1, with the gradient of R / R's present value: a space is plain numbers, which have none."""
        radius: Tensor = self.curvature().sqrt()
        return radius / radius.detach()

    def get_embedding_dimension(self) -> int:
        """Return how many coordinates a point has, time included."""
        return self.dimension + self.curved

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A curvature rounded to half precision would be another space than that of an index made before.
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in _HALF else moved

        applied: Self = super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return applied

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write configuration and weights into a folder."""
        os.makedirs(output_path, exist_ok=True)
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=True)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Read configuration and weights from a folder or a Hub repository."""
        where: Any = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        module = cls(**cls.load_config(model_name_or_path, **where))
        cls.load_torch_weights(model_name_or_path, model=module, **where)
        return module


def _expmap0(tangent: Tensor, radius_squared: Tensor) -> Tensor:
    radius = radius_squared.sqrt()
    rho = torch.linalg.vector_norm(tangent, dim=-1, keepdim=True) / radius
    return radius * torch.cat([torch.cosh(rho), torch.sinh(rho) * geometry.unit_vectors(tangent)], dim=-1)


def flip_time(points: Tensor) -> Tensor:
    """Return points with the sign of the time coordinate, the first one, turned."""
    return torch.cat([-points[..., :1], points[..., 1:]], dim=-1)
