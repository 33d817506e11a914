"""Suites: many systems on many collections in one command, kept as result files, from which tables are computed."""

from hyperseek.evaluation.suite._drift import Drift, drifts
from hyperseek.evaluation.suite._result_files import (
    SuiteCosts,
    SuiteResult,
    publish_results,
    read_result,
    read_results,
)
from hyperseek.evaluation.suite._running import read_table, run_suite
from hyperseek.evaluation.suite._suite import (
    Suite,
    SuiteCollection,
    SuiteFusion,
    SuiteSystem,
    list_suites,
    read_suite,
)
from hyperseek.evaluation.suite._table import SuiteCell, SuiteColumn, SuiteRow, SuiteTable, suite_table

__all__ = [
    "Drift",
    "Suite",
    "SuiteCell",
    "SuiteCollection",
    "SuiteColumn",
    "SuiteCosts",
    "SuiteFusion",
    "SuiteResult",
    "SuiteRow",
    "SuiteSystem",
    "SuiteTable",
    "drifts",
    "list_suites",
    "publish_results",
    "read_result",
    "read_results",
    "read_suite",
    "read_table",
    "run_suite",
    "suite_table",
]
