"""Documents and their points on disk: one table in many versions, and the structures that are attached to it."""

from hyperseek.store.info import IndexInfo
from hyperseek.store.snapshot import Snapshot
from hyperseek.store.table import Store

__all__ = ["IndexInfo", "Snapshot", "Store"]
