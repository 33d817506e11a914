"""Losses: functions of score matrices, so that every kind of scorer can be trained with every one of them."""

from hyperseek.training._losses._anchor import AnchorConfig, AnchorLoss
from hyperseek.training._losses._base import Loss, LossConfig, Material
from hyperseek.training._losses._batch import NO_DOCUMENT, ScoredBatch
from hyperseek.training._losses._contrastive import ContrastiveConfig, ContrastiveLoss
from hyperseek.training._losses._gather import gather_rows
from hyperseek.training._losses._hierarchy import EntailmentConfig, EntailmentLoss, RadiusConfig, RadiusLoss
from hyperseek.training._losses._kl import KLConfig, KLLoss
from hyperseek.training._losses._margin_mse import MarginMSEConfig, MarginMSELoss
from hyperseek.training._losses._matryoshka import MatryoshkaConfig
from hyperseek.training._losses._objective import LossesConfig, Objective
from hyperseek.training._losses._own_cross_entropy import OwnCrossEntropyConfig, OwnCrossEntropyLoss

__all__ = [
    "NO_DOCUMENT",
    "AnchorConfig",
    "AnchorLoss",
    "ContrastiveConfig",
    "ContrastiveLoss",
    "EntailmentConfig",
    "EntailmentLoss",
    "KLConfig",
    "KLLoss",
    "Loss",
    "LossConfig",
    "LossesConfig",
    "MarginMSEConfig",
    "MarginMSELoss",
    "Material",
    "MatryoshkaConfig",
    "Objective",
    "OwnCrossEntropyConfig",
    "OwnCrossEntropyLoss",
    "RadiusConfig",
    "RadiusLoss",
    "ScoredBatch",
    "gather_rows",
]
