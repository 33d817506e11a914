"""Documents and their points on the disk: one table, many versions, and the engines attached to it."""

from hyperseek.store.charts import ChartRecord
from hyperseek.store.info import FORMAT, IndexInfo
from hyperseek.store.lance import writer_lock
from hyperseek.store.snapshot import Snapshot
from hyperseek.store.table import Store

__all__ = ["FORMAT", "ChartRecord", "IndexInfo", "Snapshot", "Store", "writer_lock"]
