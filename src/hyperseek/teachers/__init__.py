"""Rankers that others learn from and are compared with."""

from hyperseek.teachers._bm25 import BM25, BM25Settings, bm25_run

__all__ = ["BM25", "BM25Settings", "bm25_run"]
