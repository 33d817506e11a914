"""Losses: functions of score matrices, so that every kind of scorer can be trained with every loss."""

from hyperseek.training.losses._base import NO_DOCUMENT, Loss, LossConfig, Material, ScoredBatch
from hyperseek.training.losses._cards import (
    CardContrastConfig,
    CardContrastLoss,
    PreferenceConfig,
    PreferenceLoss,
    WrongCardConfig,
    WrongCardLoss,
)
from hyperseek.training.losses._contrastive import (
    ContrastiveConfig,
    ContrastiveLoss,
    OwnCrossEntropyConfig,
    OwnCrossEntropyLoss,
)
from hyperseek.training.losses._distillation import (
    AnchorConfig,
    AnchorLoss,
    KLConfig,
    KLLoss,
    MarginMSEConfig,
    MarginMSELoss,
)
from hyperseek.training.losses._hierarchy import (
    CoarseToFineConfig,
    CoarseToFineLoss,
    EntailmentConfig,
    EntailmentLoss,
    RadiusConfig,
    RadiusLoss,
)
from hyperseek.training.losses._objective import (
    LOSSES,
    LossesConfig,
    MatryoshkaConfig,
    Objective,
    XTRConfig,
    register_loss,
)

__all__ = [
    "LOSSES",
    "NO_DOCUMENT",
    "AnchorConfig",
    "AnchorLoss",
    "CardContrastConfig",
    "CardContrastLoss",
    "CoarseToFineConfig",
    "CoarseToFineLoss",
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
    "PreferenceConfig",
    "PreferenceLoss",
    "RadiusConfig",
    "RadiusLoss",
    "ScoredBatch",
    "WrongCardConfig",
    "WrongCardLoss",
    "XTRConfig",
    "register_loss",
]
