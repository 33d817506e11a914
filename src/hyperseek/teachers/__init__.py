"""Rankers that others learn from and are compared with."""

from hyperseek.teachers._bm25 import BM25, BM25Settings, bm25_run
from hyperseek.teachers._pairs import CrossEncoderTeacher, RetrieverTeacher, load_teacher

__all__ = ["BM25", "BM25Settings", "CrossEncoderTeacher", "RetrieverTeacher", "bm25_run", "load_teacher"]
