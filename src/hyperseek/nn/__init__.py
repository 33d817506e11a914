"""Torch modules, one concept a file. They know tensors, not texts and not files."""

from hyperseek.nn._hyper_head import HyperHead
from hyperseek.nn._tangent_projection import Curvature, DeLayerNorm, TangentProjection

__all__ = ["Curvature", "DeLayerNorm", "HyperHead", "TangentProjection"]
