"""Readers of collections, the one training-example schema, and the embedded corpus `pydocs`.

```python
dataset = open_dataset("pydocs")
documents, queries, qrels = dataset.documents(), dataset.queries("test"), dataset.qrels("test")
prepare("training", ["pydocs:train"])
```
"""

from hyperseek.data._benchmark_collections import BEIR_GROUPS, NANOBEIR_GROUPS
from hyperseek.data._cards import CardComparison, CardFinding, check_card, compare_cards, draft_card
from hyperseek.data._dataset import Dataset
from hyperseek.data._judged import QrelsOptions, examples_from_qrels
from hyperseek.data._known_collections import BRIGHT_GROUPS
from hyperseek.data._qrels_and_runs import read_qrels, read_run, trec_lines, write_qrels, write_run
from hyperseek.data._text_files import read_corpus, read_id_list, read_queries, write_beir
from hyperseek.data.candidate_files import read_candidates
from hyperseek.data.examples import CoarseOptions, ExampleItem, TrainingExample
from hyperseek.data.files.readers import File, register_reader
from hyperseek.data.hierarchy import read_hierarchy
from hyperseek.data.hierarchy.hierarchy_folder import HierarchyInfo, HierarchyOptions, prepare_hierarchy
from hyperseek.data.lengths import LengthReport, Lengths, automatic_lengths, measure_lengths, token_lengths
from hyperseek.data.open import open_dataset, register_source
from hyperseek.data.prepared import (
    CorpusInfo,
    LeakInfo,
    LeakOptions,
    Prepared,
    PreparedInfo,
    RefinedInfo,
    SourceInfo,
    read_examples,
    read_prepared,
    trained_documents,
)
from hyperseek.data.preparing import PrepareOptions, prepare, read_source, write_examples
from hyperseek.data.reading import ErrorReport
from hyperseek.data.tables.columns import (
    ColumnsOptions,
    HypencoderOptions,
    examples_from_columns,
    examples_from_hypencoder,
)
from hyperseek.data.tables.instructed import KalmOptions, ReasonIROptions, examples_from_kalm, examples_from_reasonir

__all__ = [
    "BEIR_GROUPS",
    "BRIGHT_GROUPS",
    "NANOBEIR_GROUPS",
    "CardComparison",
    "CardFinding",
    "CoarseOptions",
    "ColumnsOptions",
    "CorpusInfo",
    "Dataset",
    "ErrorReport",
    "ExampleItem",
    "File",
    "HierarchyInfo",
    "HierarchyOptions",
    "HypencoderOptions",
    "KalmOptions",
    "LeakInfo",
    "LeakOptions",
    "LengthReport",
    "Lengths",
    "PrepareOptions",
    "Prepared",
    "PreparedInfo",
    "QrelsOptions",
    "ReasonIROptions",
    "RefinedInfo",
    "SourceInfo",
    "TrainingExample",
    "automatic_lengths",
    "check_card",
    "compare_cards",
    "draft_card",
    "examples_from_columns",
    "examples_from_hypencoder",
    "examples_from_kalm",
    "examples_from_qrels",
    "examples_from_reasonir",
    "measure_lengths",
    "open_dataset",
    "prepare",
    "prepare_hierarchy",
    "read_candidates",
    "read_corpus",
    "read_examples",
    "read_hierarchy",
    "read_id_list",
    "read_prepared",
    "read_qrels",
    "read_queries",
    "read_run",
    "read_source",
    "register_reader",
    "register_source",
    "token_lengths",
    "trained_documents",
    "trec_lines",
    "write_beir",
    "write_examples",
    "write_qrels",
    "write_run",
]
