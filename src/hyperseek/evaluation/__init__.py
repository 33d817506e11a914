"""Measuring rankings: measures, protocols, paired comparisons, seen and unseen slices."""

from hyperseek._relevance import excluded_ids, register_measure
from hyperseek.evaluation._card_rows import CardStudy, CardTask, card_rows
from hyperseek.evaluation._cards import CardTable, evaluate_cards
from hyperseek.evaluation._comparison import Comparison, Row, Section, Statistics, compare
from hyperseek.evaluation._export import write_original_files, write_results
from hyperseek.evaluation._hierarchy_measures import EntityPairs, PairScores, classify_pairs
from hyperseek.evaluation._hierarchy_report import HierarchyReport, measure_hierarchy
from hyperseek.evaluation._measures import aggregate, calculate, measure_names, p_mrr, p_mrr_per_query
from hyperseek.evaluation._perturbations import perturb, register_perturbation
from hyperseek.evaluation._query_slices import (
    QuerySlice,
    SliceTask,
    SliceValues,
    check_slices,
    register_slice,
    slice_queries,
)
from hyperseek.evaluation._ranking import Ranking, choose_k, evaluate, rank_bm25, rank_candidates, rank_file, rank_index
from hyperseek.evaluation._result import (
    Evaluation,
    Protocol,
    Slices,
    slice_by_training,
    trained_on,
)
from hyperseek.evaluation._robustness import (
    Drop,
    PerturbedQueries,
    Robustness,
    measure_robustness,
    perturbed_dataset,
)
from hyperseek.evaluation._set_means import SetMeans, set_means
from hyperseek.evaluation._significance import bootstrap_intervals, holm, paired_test
from hyperseek.evaluation.hierarchy_rankings import (
    ancestor_hops,
    ancestor_qrels,
    evaluate_by_hops,
    node_scorer,
    rank_levels,
    rank_nodes,
)
from hyperseek.evaluation.mteb import MtebEncoder, MtebSummary, MtebTask, evaluate_mteb, local_task, mteb_tasks

__all__ = [
    "CardStudy",
    "CardTable",
    "CardTask",
    "Comparison",
    "Drop",
    "EntityPairs",
    "Evaluation",
    "HierarchyReport",
    "MtebEncoder",
    "MtebSummary",
    "MtebTask",
    "PairScores",
    "PerturbedQueries",
    "Protocol",
    "QuerySlice",
    "Ranking",
    "Robustness",
    "Row",
    "Section",
    "SetMeans",
    "SliceTask",
    "SliceValues",
    "Slices",
    "Statistics",
    "aggregate",
    "ancestor_hops",
    "ancestor_qrels",
    "bootstrap_intervals",
    "calculate",
    "card_rows",
    "check_slices",
    "choose_k",
    "classify_pairs",
    "compare",
    "evaluate",
    "evaluate_by_hops",
    "evaluate_cards",
    "evaluate_mteb",
    "excluded_ids",
    "holm",
    "local_task",
    "measure_hierarchy",
    "measure_names",
    "measure_robustness",
    "mteb_tasks",
    "node_scorer",
    "p_mrr",
    "p_mrr_per_query",
    "paired_test",
    "perturb",
    "perturbed_dataset",
    "rank_bm25",
    "rank_candidates",
    "rank_file",
    "rank_index",
    "rank_levels",
    "rank_nodes",
    "register_measure",
    "register_perturbation",
    "register_slice",
    "set_means",
    "slice_by_training",
    "slice_queries",
    "trained_on",
    "write_original_files",
    "write_results",
]
