"""Mining hard negatives, filtering examples, preferences, and the rankers used as teachers and baselines."""

from hyperseek.mining._bm25 import BM25, BM25Settings, stop_words, terms
from hyperseek.mining._candidates import (
    ConsistencyOptions,
    MiningOptions,
    PreferenceOptions,
    RefineOptions,
    TeacherOptions,
)
from hyperseek.mining._negatives import Teacher
from hyperseek.mining._preferences import fuse_scores, preference_pairs, prepare_preferences
from hyperseek.mining._refine import refine
from hyperseek.mining._teachers import load_teacher

__all__ = [
    "BM25",
    "BM25Settings",
    "ConsistencyOptions",
    "MiningOptions",
    "PreferenceOptions",
    "RefineOptions",
    "Teacher",
    "TeacherOptions",
    "fuse_scores",
    "load_teacher",
    "preference_pairs",
    "prepare_preferences",
    "refine",
    "stop_words",
    "terms",
]
