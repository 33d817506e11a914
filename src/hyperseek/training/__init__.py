"""Training: losses, the trainer, recipes."""

# ruff: noqa: E402 (without these, what is imported below fails deep inside of transformers)
from hyperseek.errors import require

for _package in ("accelerate", "datasets"):
    require(_package, extra="train")

from hyperseek._config import find_recipe, list_recipes
from hyperseek.runs.arguments import training_arguments
from hyperseek.runs.loop import Clock, register_schedule
from hyperseek.training._cache import FeatureCache
from hyperseek.training._collate import Batch, Collator, SideFeatures
from hyperseek.training._recipe import Recipe, read_recipe
from hyperseek.training._routes import choose_trainable, merge_adapters
from hyperseek.training._run import train
from hyperseek.training._stack import TrainedStack, TrainingModule
from hyperseek.training._trainer import RetrieverTrainer
from hyperseek.training._training_set import Drawn, EpochBatches, Example, TrainingSet, register_batches
from hyperseek.training._validation import DevSet, Validator, make_dev_set, register_metric
from hyperseek.training.losses import (
    NO_DOCUMENT,
    AnchorConfig,
    AnchorLoss,
    ContrastiveConfig,
    ContrastiveLoss,
    EntailmentConfig,
    EntailmentLoss,
    KLConfig,
    KLLoss,
    Loss,
    LossConfig,
    LossesConfig,
    MarginMSEConfig,
    MarginMSELoss,
    MatryoshkaConfig,
    Objective,
    OwnCrossEntropyConfig,
    OwnCrossEntropyLoss,
    RadiusConfig,
    RadiusLoss,
    ScoredBatch,
    gather_rows,
    register_loss,
)
from hyperseek.training.record import RunRecord, read_record

__all__ = [
    "NO_DOCUMENT",
    "AnchorConfig",
    "AnchorLoss",
    "Batch",
    "Clock",
    "Collator",
    "ContrastiveConfig",
    "ContrastiveLoss",
    "DevSet",
    "Drawn",
    "EntailmentConfig",
    "EntailmentLoss",
    "EpochBatches",
    "Example",
    "FeatureCache",
    "KLConfig",
    "KLLoss",
    "Loss",
    "LossConfig",
    "LossesConfig",
    "MarginMSEConfig",
    "MarginMSELoss",
    "MatryoshkaConfig",
    "Objective",
    "OwnCrossEntropyConfig",
    "OwnCrossEntropyLoss",
    "RadiusConfig",
    "RadiusLoss",
    "Recipe",
    "RetrieverTrainer",
    "RunRecord",
    "ScoredBatch",
    "SideFeatures",
    "TrainedStack",
    "TrainingModule",
    "TrainingSet",
    "Validator",
    "choose_trainable",
    "find_recipe",
    "gather_rows",
    "list_recipes",
    "make_dev_set",
    "merge_adapters",
    "read_recipe",
    "read_record",
    "register_batches",
    "register_loss",
    "register_metric",
    "register_schedule",
    "train",
    "training_arguments",
]
