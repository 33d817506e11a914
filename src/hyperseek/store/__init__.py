"""Documents and their points on the disk: one table, many versions, and the engines attached to it."""

from hyperseek.store._charts import ChartRecord
from hyperseek.store._info import FORMAT, IndexInfo
from hyperseek.store._lock import writer_lock
from hyperseek.store._snapshot import Snapshot
from hyperseek.store._store import Store

__all__ = ["FORMAT", "ChartRecord", "IndexInfo", "Snapshot", "Store", "writer_lock"]
