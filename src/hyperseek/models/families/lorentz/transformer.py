"""The fully hyperbolic encoder as sentence-transformers modules: trunk, pooling, and outputs that other tools can rank.

The trunk passes on Lorentz points, time first, and `radius_squared`, the R² of their hyperboloid; `LorentzPoints` turns
them into queries and documents. As in the `LorentzHead` of the hybrid encoders, its output depends on the side: a row
of the document side is a point, and one of the query side has the sign of time reversed, so that plain inner products
of the two rank as distances do.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from hyperseek.errors import InputError, ModelError, UnknownNameError
from hyperseek.models.families.lorentz.config import SIMILARITIES, Distance
from hyperseek.models.families.lorentz.encoder import LorentzEncoder
from hyperseek.models.families.lorentz.head import document_points, query_scorer, refuse_truncation, side_rows
from hyperseek.models.modules import SavedModule
from hyperseek.nn.lorentz import LorentzPooler
from hyperseek.nn.tangent_projection import Curvature
from hyperseek.scoring import LinearScorer, Points, Space

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperseek.nn.lorentz import PoolingName


class LorentzTransformer(Transformer):
    """The trunk. Reads tokenised texts; writes `token_embeddings` `(B, S, d)` points and `radius_squared`, 0-dim.

    It takes every argument of sentence-transformers' `Transformer` and saves the same way: the folder also loads as
    `LorentzEncoder`, and in transformers' `AutoModel` once hyperseek has been imported.

    Args:
        model_name_or_path: Folder or name of a `LorentzEncoder` or `LorentzForMaskedLM` with its tokenizer.
        **options: See `Transformer`.

    Raises:
        ModelError: The model is of another kind, or tensors are missing.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it
    model: LorentzEncoder
    only_family = "lorentz"

    def __init__(self, model_name_or_path: str, **options: Any) -> None:
        # The pooling, if the encoder has one, is a separate module here.
        options["model_kwargs"] = {**(options.get("model_kwargs") or {}), "add_pooling_layer": False}
        super().__init__(model_name_or_path, **options)
        if not isinstance(self.model, LorentzEncoder):
            raise ModelError(f"{model_name_or_path} is a {type(self.model).__name__}, not a LorentzEncoder")
        self.model.config.pooling = None

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Encode the tokens of `features`, and return the features with `token_embeddings` and `radius_squared`."""
        features = super().forward(features, **kwargs)
        features["radius_squared"] = self.model.curvature()
        return features


class CurvatureReader(SavedModule):
    """Base of modules that read the curvature of their model, which its trunk owns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # In a list, so that torch does not register it as a submodule and save it again.
        self._shared: list[Curvature] = []

    @property
    def curvature(self) -> Curvature:
        """The trunk's curvature; ModelError if the module is not part of a model."""
        if not self._shared:
            raise ModelError(f"this {type(self).__name__} is not part of a model whose trunk has a curvature")
        return self._shared[0]

    def on_model_ready(self, model: nn.Module) -> None:
        """Find the curvature of the model that this module belongs to."""
        self._shared = [module for module in model.modules() if isinstance(module, Curvature)]
        if len(self._shared) != 1:
            raise ModelError(
                f"a {type(self).__name__} needs a trunk with one curvature, such as a LorentzTransformer; "
                f"this model has {len(self._shared)}"
            )

    def radius_squared(self, features: dict[str, Any]) -> Tensor:
        """Return R² from the features, or from the trunk if the features come from a cache."""
        found: Tensor | None = features.get("radius_squared")
        return self.curvature() if found is None else found


class LorentzPooling(CurvatureReader):
    """Pool token points to one of the text.

    Reads `token_embeddings`, `attention_mask` and `radius_squared` (from the trunk if it is missing); writes
    `sentence_embedding`, `(B, d)` points, float32 or wider.

    Args:
        size: Coordinates of a point, time included.
        pooling: See `hyperseek.nn.lorentz.LorentzPooler`, as for all that follow.
        power: See there.
        saturation: See there.
        keep_radius: See there.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it
    config_keys = ("size", "pooling", "power", "saturation", "keep_radius")  # type: ignore[assignment]  # a list there

    def __init__(
        self,
        size: int,
        pooling: PoolingName = "cls",
        *,
        power: float = 1.0,
        saturation: float = 0.0,
        keep_radius: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.pooling = pooling
        self.power = power
        self.saturation = saturation
        self.keep_radius = keep_radius
        self.pooler = LorentzPooler(pooling, size, power=power, saturation=saturation, keep_radius=keep_radius)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Write the pooled points, and return the features."""
        points = features["token_embeddings"]
        with torch.autocast(points.device.type, enabled=False):
            features["sentence_embedding"] = self.pooler(
                points, features.get("attention_mask"), self.radius_squared(features)
            )
        return features

    def get_embedding_dimension(self) -> int:
        """Return the number of coordinates of a point, time included."""
        return self.size


class LorentzPoints(CurvatureReader):
    """Turn the points of a fully hyperbolic encoder into rows of the query or the document side.

    Reads `sentence_embedding`, `(N, d)` points, and `radius_squared`; writes `sentence_embedding`.

    Args:
        size: Coordinates of a point, time included.
        distance: How points are compared: `"geodesic"`, `"squared_lorentz"` or `"lorentz_inner"`. All rank alike.
        output_dimension: Dimension of the returned points, cut and lifted again; None for all, `size - 1`.

    Raises:
        InputError: The encoder has fewer dimensions.
        UnknownNameError: There is no such distance.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it
    config_keys = ("size", "distance", "output_dimension")  # type: ignore[assignment]  # the base class declares a list, and only iterates
    forward_kwargs = {"task"}  # noqa: RUF012  # as the base class declares it
    reads_tokens = False

    def __init__(self, size: int, distance: Distance = "geodesic", *, output_dimension: int | None = None) -> None:
        super().__init__()
        if distance not in SIMILARITIES:
            raise UnknownNameError("distance of points", distance, SIMILARITIES)
        self.size = size
        self.distance = distance
        self.output_dimension = size - 1
        self.shorten(size - 1 if output_dimension is None else output_dimension)

    @property
    def space(self) -> Space:
        """The space of the points, with the present curvature."""
        return Space("lorentz", self.output_dimension, self.curvature.radius_squared, SIMILARITIES[self.distance])

    @property
    def base_space(self) -> Space:
        """The space of the trunk's own coordinates, for losses that compare with the trunk."""
        return Space("cosine", self.size)

    def on_model_ready(self, model: nn.Module) -> None:
        """Find the curvature; raise ModelError for a model that would truncate points."""
        super().on_model_ready(model)
        refuse_truncation(model)

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Replace `sentence_embedding` by rows.

        Args:
            features: With `sentence_embedding`, `(N, d)` points.
            task: `"query"`, `"document"`, or anything else for the logarithmic map.
            **kwargs: Ignored.

        Returns:
            The features.
        """
        features["sentence_embedding"] = side_rows(
            features["sentence_embedding"], self.radius_squared(features), task, self.output_dimension
        )
        return features

    def points(self, rows: Tensor) -> Points:
        """Return the points of document rows `(N, d)`; differentiable, also in the curvature."""
        return document_points(rows, self.space, self.curvature)

    def scorer(self, rows: Tensor) -> LinearScorer:
        """Return the scorer of query rows `(Q, d)`; differentiable, also in the curvature."""
        return query_scorer(rows, self.space, self.curvature, self.distance)

    def diagnostics(self) -> dict[str, Tensor]:
        """Return a number for the training log: R²."""
        return {"radius_squared": self.curvature().detach()}

    def shorten(self, dimension: int) -> None:
        """Truncate points to the first dimensions, lifted again, for models trained with `losses.matryoshka`.

        Args:
            dimension: At most the encoder's. Do this before anything is encoded, and save the model under another
                name: its points lie in another space.

        Raises:
            InputError: The encoder has fewer dimensions.
        """
        if not 1 <= dimension < self.size:
            raise InputError(f"the dimension must be 1 to {self.size - 1}, the encoder's own, not {dimension}")
        self.output_dimension = dimension

    def get_embedding_dimension(self) -> int:
        """Return the number of coordinates of a point, time included."""
        return self.output_dimension + 1


def pooling_module(pooler: LorentzPooler, size: int) -> LorentzPooling:
    """Return the pooling of an encoder as a module.

    Args:
        pooler: The pooling; its weights are copied.
        size: Coordinates of a point.

    Returns:
        The module.
    """
    module = LorentzPooling(
        size, pooler.pooling, power=pooler.power, saturation=pooler.saturation, keep_radius=pooler.keep_radius
    )
    module.pooler.load_state_dict(pooler.state_dict())
    return module


def transformer_module(encoder: LorentzEncoder, tokenizer: PreTrainedTokenizerBase) -> LorentzTransformer:
    """Wrap an encoder in a module.

    Args:
        encoder: The encoder; it is copied without its pooling.
        tokenizer: Its tokenizer.

    Returns:
        The trunk of a retriever.
    """
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return LorentzTransformer(folder)


def lorentz_model(
    trunk: LorentzTransformer, pooling: LorentzPooling, *, distance: Distance = "geodesic", **options: Any
) -> SentenceTransformer:
    """Build a model with a document and a query side from a trunk and its pooling.

    Args:
        trunk: The encoder.
        pooling: The pooling.
        distance: How points are compared.
        **options: Options of `SentenceTransformer`: device, prompts.

    Returns:
        The model.
    """
    modules: list[nn.Module] = [trunk, pooling, LorentzPoints(pooling.size, distance)]
    return SentenceTransformer(modules=modules, similarity_fn_name="dot", **options)
