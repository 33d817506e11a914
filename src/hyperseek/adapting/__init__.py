"""Adapting an index to a task in seconds: a head of queries, fitted on stored vectors and kept only if it helps."""

from hyperseek.adapting._adaptation import Adaptation, AdaptRecord, adapt, read_judged
from hyperseek.adapting._choosing import Gain

__all__ = ["AdaptRecord", "Adaptation", "Gain", "adapt", "read_judged"]
