"""The fully hyperbolic encoder as sentence-transformers modules: a trunk of token points, and its pooling.

They hand on Lorentz points, time first, and `radius_squared`, the R² these lie on. The step that makes queries and
documents of them for an index is the module `LorentzPoints`.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.modules import Transformer

from hyperseek._errors import ModelError
from hyperseek.models._lorentz_encoder import LorentzEncoder
from hyperseek.models._lorentz_points import CurvatureReader
from hyperseek.nn.lorentz import LorentzPooler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperseek.nn.lorentz._pooler import PoolingName


class LorentzTransformer(Transformer):
    """The trunk. Reads tokenised texts; writes `token_embeddings` `(B, S, d)` points and `radius_squared`, 0-dim.

    It takes every argument of sentence-transformers' `Transformer`, and saves alike: the folder also loads as
    `LorentzEncoder`, and in transformers' `AutoModel` where hyperseek was imported.

    Args:
        model_name_or_path: Folder or name of a `LorentzEncoder` or `LorentzForMaskedLM` with its tokenizer.
        **options: See `Transformer`.

    Raises:
        ModelError: The model is of another kind, or lacks tensors.
    """

    model: LorentzEncoder

    def __init__(self, model_name_or_path: str, **options: Any) -> None:
        # The pooling, if the encoder has one, is a module of its own here.
        options["model_kwargs"] = {**(options.get("model_kwargs") or {}), "add_pooling_layer": False}
        super().__init__(model_name_or_path, **options)
        if not isinstance(self.model, LorentzEncoder):
            raise ModelError(f"{model_name_or_path} is a {type(self.model).__name__}, not a LorentzEncoder")
        self.model.config.pooling = None

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Encode the tokens of `features`, and return these with what was added."""
        features = super().forward(features, **kwargs)
        features["radius_squared"] = self.model.curvature()
        return features


class LorentzPooling(CurvatureReader):
    """Pool token points to one of the text.

    Reads `token_embeddings`, `attention_mask` and `radius_squared` (from the trunk where it is missing); writes
    `sentence_embedding`, `(B, d)` points, float32 or wider.

    Args:
        size: Coordinates of a point, time included.
        pooling: See `hyperseek.nn.lorentz.LorentzPooler`, as for all that follow.
        power: See there.
        saturation: See there.
        keep_radius: See there.
    """

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
        """Return how many coordinates a point has, time included."""
        return self.size


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
    """Return an encoder in memory as a module.

    Args:
        encoder: The encoder; it is copied, without its pooling.
        tokenizer: Its tokenizer.

    Returns:
        The trunk of a retriever.
    """
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return LorentzTransformer(folder)
