"""Every step in one call: data, index, search, training, evaluation, a picture."""

from hyperseek.demo._run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
