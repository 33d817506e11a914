"""Layers whose inputs and outputs are points of the hyperboloid: a transformer without a Euclidean step between them.

Shapes: `B` texts, `S` tokens, `H` heads, `d` coordinates of a point, time first, so that `d - 1` is the dimension of
the space. No layer owns a curvature: `radius_squared` (R² of <x, x> = -R²) is an argument of every forward, so a model
has one. Time coordinates are computed from the space part in float32 or wider, also under autocast.

The layers are those of "HypRAG" (arXiv 2602.07739), with its parameter names and its errors corrected.
"""

from hyperseek.nn.lorentz._block import (
    POOLINGS,
    AttentionScores,
    LorentzAttention,
    LorentzBlock,
    LorentzEmbeddings,
    LorentzFeedForward,
    LorentzPooler,
    LorentzPredictionHead,
    LorentzRadiusFactor,
    LorentzResidual,
    PoolingName,
)
from hyperseek.nn.lorentz._layers import (
    NORMS,
    LorentzDynamicTanh,
    LorentzLayerNorm,
    LorentzLinear,
    LorentzMLR,
    LorentzMultiHeadLinear,
    LorentzNorm,
    LorentzRMSNorm,
    Rotary,
    RotaryStyle,
    make_norm,
    rotary_table,
    rotate,
)

__all__ = [
    "NORMS",
    "POOLINGS",
    "AttentionScores",
    "LorentzAttention",
    "LorentzBlock",
    "LorentzDynamicTanh",
    "LorentzEmbeddings",
    "LorentzFeedForward",
    "LorentzLayerNorm",
    "LorentzLinear",
    "LorentzMLR",
    "LorentzMultiHeadLinear",
    "LorentzNorm",
    "LorentzPooler",
    "LorentzPredictionHead",
    "LorentzRMSNorm",
    "LorentzRadiusFactor",
    "LorentzResidual",
    "PoolingName",
    "Rotary",
    "RotaryStyle",
    "make_norm",
    "rotary_table",
    "rotate",
]
