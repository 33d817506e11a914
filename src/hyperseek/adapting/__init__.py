"""Adapting an index to a task in seconds: a head of queries, fitted on stored vectors and kept only if it helps."""

from hyperseek.adapting._adaptation import Adaptation, AdaptRecord, adapt, read_judged
from hyperseek.adapting._choosing import KINDS, Fits, Gain, towards
from hyperseek.adapting._fitting import Map, Material

__all__ = ["KINDS", "AdaptRecord", "Adaptation", "Fits", "Gain", "Map", "Material", "adapt", "read_judged", "towards"]
