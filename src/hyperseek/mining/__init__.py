"""Mining hard negatives, filtering examples, and the rankers used as teachers and baselines."""

from hyperseek.mining._bm25 import BM25, BM25Settings
from hyperseek.mining._negatives import Teacher
from hyperseek.mining._options import ConsistencyOptions, MiningOptions, RefineOptions, TeacherOptions
from hyperseek.mining._refine import refine
from hyperseek.mining._teachers import load_teacher

__all__ = [
    "BM25",
    "BM25Settings",
    "ConsistencyOptions",
    "MiningOptions",
    "RefineOptions",
    "Teacher",
    "TeacherOptions",
    "load_teacher",
    "refine",
]
