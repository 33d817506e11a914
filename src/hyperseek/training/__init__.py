"""Training: losses, the trainer, recipes."""

from hyperseek._recipe_files import find_recipe, list_recipes
from hyperseek.runs.recipe import register_schedule
from hyperseek.runs.record import RunRecord, read_record
from hyperseek.training._forecast import Forecast
from hyperseek.training._recipe import Recipe, read_recipe, register_batches
from hyperseek.training._routes import TrainedPart
from hyperseek.training._run import dry_run, train
from hyperseek.training.losses import (
    AnchorConfig,
    CardContrastConfig,
    ContrastiveConfig,
    EntailmentConfig,
    KLConfig,
    Loss,
    LossConfig,
    LossesConfig,
    MarginMSEConfig,
    MatryoshkaConfig,
    OwnCrossEntropyConfig,
    PreferenceConfig,
    RadiusConfig,
    ScoredBatch,
    WrongCardConfig,
    XTRConfig,
    register_loss,
)

__all__ = [
    "AnchorConfig",
    "CardContrastConfig",
    "ContrastiveConfig",
    "EntailmentConfig",
    "Forecast",
    "KLConfig",
    "Loss",
    "LossConfig",
    "LossesConfig",
    "MarginMSEConfig",
    "MatryoshkaConfig",
    "OwnCrossEntropyConfig",
    "PreferenceConfig",
    "RadiusConfig",
    "Recipe",
    "RunRecord",
    "ScoredBatch",
    "TrainedPart",
    "WrongCardConfig",
    "XTRConfig",
    "dry_run",
    "find_recipe",
    "list_recipes",
    "read_recipe",
    "read_record",
    "register_batches",
    "register_loss",
    "register_schedule",
    "train",
]
