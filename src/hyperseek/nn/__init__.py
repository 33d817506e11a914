"""Torch modules, one concept a file. They know tensors, not texts and not files."""

from hyperseek.nn._hyper_head import HyperHead

__all__ = ["HyperHead"]
