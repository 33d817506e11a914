"""Measuring rankings and RAG: measures, protocols, paired comparisons, seen and unseen slices, answers and judges."""

from hyperseek._relevance import excluded_ids, register_measure
from hyperseek.evaluation._card_rows import CardStudy, CardTask, card_rows
from hyperseek.evaluation._cards import CardTable, evaluate_cards
from hyperseek.evaluation._comparison import Comparison, Row, Section, Statistics, compare
from hyperseek.evaluation._export import write_original_files, write_results
from hyperseek.evaluation._hierarchy_measures import EntityPairs, PairScores, classify_pairs
from hyperseek.evaluation._hierarchy_report import HierarchyReport, measure_hierarchy
from hyperseek.evaluation._instructions import InstructionResult, measure_instructions
from hyperseek.evaluation._measures import aggregate, calculate, measure_names, p_mrr, p_mrr_per_query
from hyperseek.evaluation._perturbations import perturb, register_perturbation
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
from hyperseek.evaluation.pools._judgements import (
    Agreement,
    Conflict,
    MergedJudgements,
    cohens_kappa,
    merge_judgements,
)
from hyperseek.evaluation.pools._pooling import PoolItem, make_pool, write_pool
from hyperseek.evaluation.query_slices import (
    QuerySlice,
    SliceTask,
    SliceValues,
    check_slices,
    register_slice,
    slice_queries,
)
from hyperseek.evaluation.rag._adherence import AdherenceJudge, AdherenceScores, train_adherence
from hyperseek.evaluation.rag._free_measures import FREE_MEASURES, free_measures, trace_scores
from hyperseek.evaluation.rag._generators import (
    EndpointGenerator,
    Generated,
    GenerationOptions,
    Generator,
    LocalGenerator,
    load_generator,
)
from hyperseek.evaluation.rag._judging import JUDGED_MEASURES, Judge
from hyperseek.evaluation.rag._measuring import evaluate_rag
from hyperseek.evaluation.rag._ragas import RagasJudge
from hyperseek.evaluation.rag._results import RagReport, RagResult
from hyperseek.evaluation.rag._samples import (
    RagSample,
    SentenceLabels,
    read_samples,
    recorded_samples,
    retrieve_contexts,
)
from hyperseek.evaluation.rag._usage import Usage, note_judge_tokens

__all__ = [
    "FREE_MEASURES",
    "JUDGED_MEASURES",
    "AdherenceJudge",
    "AdherenceScores",
    "Agreement",
    "CardStudy",
    "CardTable",
    "CardTask",
    "Comparison",
    "Conflict",
    "Drop",
    "EndpointGenerator",
    "EntityPairs",
    "Evaluation",
    "Generated",
    "GenerationOptions",
    "Generator",
    "HierarchyReport",
    "InstructionResult",
    "Judge",
    "LocalGenerator",
    "MergedJudgements",
    "MtebEncoder",
    "MtebSummary",
    "MtebTask",
    "PairScores",
    "PerturbedQueries",
    "PoolItem",
    "Protocol",
    "QuerySlice",
    "RagReport",
    "RagResult",
    "RagSample",
    "RagasJudge",
    "Ranking",
    "Robustness",
    "Row",
    "Section",
    "SentenceLabels",
    "SetMeans",
    "SliceTask",
    "SliceValues",
    "Slices",
    "Statistics",
    "Usage",
    "aggregate",
    "ancestor_hops",
    "ancestor_qrels",
    "bootstrap_intervals",
    "calculate",
    "card_rows",
    "check_slices",
    "choose_k",
    "classify_pairs",
    "cohens_kappa",
    "compare",
    "evaluate",
    "evaluate_by_hops",
    "evaluate_cards",
    "evaluate_mteb",
    "evaluate_rag",
    "excluded_ids",
    "free_measures",
    "holm",
    "load_generator",
    "local_task",
    "make_pool",
    "measure_hierarchy",
    "measure_instructions",
    "measure_names",
    "measure_robustness",
    "merge_judgements",
    "mteb_tasks",
    "node_scorer",
    "note_judge_tokens",
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
    "read_samples",
    "recorded_samples",
    "register_measure",
    "register_perturbation",
    "register_slice",
    "retrieve_contexts",
    "set_means",
    "slice_by_training",
    "slice_queries",
    "trace_scores",
    "train_adherence",
    "trained_on",
    "write_original_files",
    "write_pool",
    "write_results",
]
