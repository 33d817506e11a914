"""The form of documents (Points), how they compare (Space), and what queries become (Scorer)."""

from hyperseek.scoring._functions import (
    CardScorer,
    DocumentHead,
    FunctionScorer,
    Landmarks,
    OnnxScorer,
    SurrogateScorer,
    surrogate,
)
from hyperseek.scoring._geometries import Chart, Geometry, register_space
from hyperseek.scoring._levels import LevelScorer, level_options
from hyperseek.scoring._maxsim import EMPTY_SCORE, MaxSimScorer, XTRScorer, xtr_scores
from hyperseek.scoring._points import Points, TokenPoints, VectorPoints, vectors_of
from hyperseek.scoring._qnet import (
    QNetConverter,
    QNetScorer,
    RepeatedDenseBlockConverter,
    build_converter,
    register_qnet_converter,
)
from hyperseek.scoring._scorer import LinearScorer, Scorer, load_scorer, point_scorer, register_scorer
from hyperseek.scoring._space import Space

__all__ = [
    "EMPTY_SCORE",
    "CardScorer",
    "Chart",
    "DocumentHead",
    "FunctionScorer",
    "Geometry",
    "Landmarks",
    "LevelScorer",
    "LinearScorer",
    "MaxSimScorer",
    "OnnxScorer",
    "Points",
    "QNetConverter",
    "QNetScorer",
    "RepeatedDenseBlockConverter",
    "Scorer",
    "Space",
    "SurrogateScorer",
    "TokenPoints",
    "VectorPoints",
    "XTRScorer",
    "build_converter",
    "level_options",
    "load_scorer",
    "point_scorer",
    "register_qnet_converter",
    "register_scorer",
    "register_space",
    "surrogate",
    "vectors_of",
    "xtr_scores",
]
