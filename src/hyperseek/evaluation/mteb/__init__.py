"""mteb: its runner with our models and our data, and summaries of whole benchmarks."""

from hyperseek.evaluation.mteb._benchmarks import MtebSummary, MtebTask, evaluate_mteb
from hyperseek.evaluation.mteb._model import MtebEncoder
from hyperseek.evaluation.mteb._tasks import local_task, mteb_tasks

__all__ = ["MtebEncoder", "MtebSummary", "MtebTask", "evaluate_mteb", "local_task", "mteb_tasks"]
