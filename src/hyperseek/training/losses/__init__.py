"""Losses: functions of score matrices, so that every kind of scorer can be trained with every one of them."""

from hyperseek.runs.distributed import gather_rows
from hyperseek.training.losses._anchor import AnchorConfig, AnchorLoss
from hyperseek.training.losses._base import NO_DOCUMENT, Loss, LossConfig, Material, ScoredBatch
from hyperseek.training.losses._contrastive import (
    ContrastiveConfig,
    ContrastiveLoss,
    OwnCrossEntropyConfig,
    OwnCrossEntropyLoss,
)
from hyperseek.training.losses._distillation import KLConfig, KLLoss, MarginMSEConfig, MarginMSELoss
from hyperseek.training.losses._hierarchy import EntailmentConfig, EntailmentLoss, RadiusConfig, RadiusLoss
from hyperseek.training.losses._objective import LossesConfig, MatryoshkaConfig, Objective

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
