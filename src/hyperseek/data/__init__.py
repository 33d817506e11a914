"""Readers of collections, the one training-example schema, and the embedded corpus `pydocs`.

```python
dataset = open_dataset("pydocs")
documents, queries, qrels = dataset.documents(), dataset.queries("test"), dataset.qrels("test")
prepare("training", ["pydocs:train"])
```
"""

from hyperseek.data._beir import write_beir
from hyperseek.data._dataset import Dataset
from hyperseek.data._examples import ExampleItem, TrainingExample
from hyperseek.data._from_columns import examples_from_columns
from hyperseek.data._from_hypencoder import examples_from_hypencoder
from hyperseek.data._from_qrels import examples_from_qrels
from hyperseek.data._open import open_dataset
from hyperseek.data._options import ColumnsOptions, HypencoderOptions, PrepareOptions, QrelsOptions
from hyperseek.data._parsed_source import parse_source
from hyperseek.data._prepare import prepare
from hyperseek.data._prepared import (
    CorpusInfo,
    Prepared,
    PreparedInfo,
    RefinedInfo,
    SourceInfo,
    read_examples,
    read_prepared,
    trained_documents,
)
from hyperseek.data._qrels import read_qrels, write_qrels
from hyperseek.data._refine import refine
from hyperseek.data._refine_options import ConsistencyOptions, MiningOptions, RefineOptions, TeacherOptions
from hyperseek.data._report import ErrorReport
from hyperseek.data._runs import read_run, trec_lines, write_run
from hyperseek.data._teaching import Teacher
from hyperseek.data._texts import read_corpus, read_id_list, read_queries
from hyperseek.data._writing import write_examples

__all__ = [
    "ColumnsOptions",
    "ConsistencyOptions",
    "CorpusInfo",
    "Dataset",
    "ErrorReport",
    "ExampleItem",
    "HypencoderOptions",
    "MiningOptions",
    "PrepareOptions",
    "Prepared",
    "PreparedInfo",
    "QrelsOptions",
    "RefineOptions",
    "RefinedInfo",
    "SourceInfo",
    "Teacher",
    "TeacherOptions",
    "TrainingExample",
    "examples_from_columns",
    "examples_from_hypencoder",
    "examples_from_qrels",
    "open_dataset",
    "parse_source",
    "prepare",
    "read_corpus",
    "read_examples",
    "read_id_list",
    "read_prepared",
    "read_qrels",
    "read_queries",
    "read_run",
    "refine",
    "trained_documents",
    "trec_lines",
    "write_beir",
    "write_examples",
    "write_qrels",
    "write_run",
]
