"""Points on the disk with their texts, and search among them."""

from hyperseek._display import HitGroup, grouped
from hyperseek.engines import ChartRecord
from hyperseek.index._build import Estimate, estimate
from hyperseek.index._index import Index
from hyperseek.index._long_documents import LongDocuments
from hyperseek.index._opening import check_model
from hyperseek.index._sync import Changes, sync
from hyperseek.index._writing import stored_documents
from hyperseek.index.engines import Engines, Measured, Tuning
from hyperseek.index.searching import Explanation
from hyperseek.index.vector_files import is_token_files, read_token_files
from hyperseek.plan import scan
from hyperseek.store import IndexInfo

__all__ = [
    "Changes",
    "ChartRecord",
    "Engines",
    "Estimate",
    "Explanation",
    "HitGroup",
    "Index",
    "IndexInfo",
    "LongDocuments",
    "Measured",
    "Tuning",
    "check_model",
    "estimate",
    "grouped",
    "is_token_files",
    "read_token_files",
    "scan",
    "stored_documents",
    "sync",
]
