"""Documents and their points on the disk: one table, many versions, and the engines attached to it."""

from hyperseek.store.info import IndexInfo
from hyperseek.store.snapshot import Snapshot
from hyperseek.store.table import Store

__all__ = ["IndexInfo", "Snapshot", "Store"]
