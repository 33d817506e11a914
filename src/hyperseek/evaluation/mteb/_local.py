"""A retrieval task of mteb that is made of a collection."""

from __future__ import annotations

import re
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hyperseek._relevance import EXCLUDED_IDS, excluded_ids
from hyperseek.errors import require
from hyperseek.evaluation.candidates import Candidates, candidate_lists, fingerprint_candidates
from hyperseek.types import Qrels

if TYPE_CHECKING:
    from hyperseek.data import Dataset

_ROWS = 4096  # of a batch that is written
_CORPUS = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())])


def make_task(
    dataset: Dataset, *, split: str, candidates: Candidates | None, exclude_same_id: bool, language: str
) -> Any:
    """Make a task; see `local_task`."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    content = [dataset.fingerprint(), "" if candidates is None else fingerprint_candidates(candidates)]
    described = TaskMetadata(
        name="local-" + re.sub(r"[^\w.+-]+", "-", dataset.name),
        description=f"The split {split} of the collection {dataset.name}.",
        reference=None,
        dataset={"path": f"local/{dataset.name}", "revision": "-".join(part[:16] for part in content if part)},
        type="Retrieval" if candidates is None else "Reranking",
        category="t2t",
        modalities=["text"],
        eval_splits=[split],
        eval_langs=[language],
        main_score="ndcg_at_10",
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )
    lists = None if candidates is None else candidate_lists(candidates)

    class LocalRetrieval(AbsTaskRetrieval):
        """A collection as a task of mteb, which takes the metadata of a task from its class."""

        metadata = described
        ignore_identical_ids = exclude_same_id

        def __init__(self) -> None:
            self._files: tempfile.TemporaryDirectory[str] | None = None
            super().__init__()
            if exclude_same_id:
                self._top_k += 1  # mteb leaves the document out afterwards

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            """Write the corpus to a temporary file of Arrow, and read queries and judgements."""
            if self.data_loaded:
                return
            self._files = tempfile.TemporaryDirectory(prefix="hyperseek-mteb-")
            own: Any = {**_split_data(dataset, split, Path(self._files.name)), "top_ranked": lists}
            self.dataset = {"default": {split: own}}
            self.data_loaded = True

        def unload_data(self) -> None:
            """Drop what `load_data` read, and delete its file."""
            super().unload_data()
            if self._files is not None:
                self._files.cleanup()
                self._files = None

    return LocalRetrieval()


def _split_data(dataset: Dataset, split: str, folder: Path) -> dict[str, Any]:
    """Return corpus, queries and judgements as mteb has them."""
    datasets = require("datasets", extra="mteb")
    queries = dataset.queries(split)
    excluded = excluded_ids(queries)
    columns: dict[str, list[Any]] = {"id": [query.id for query in queries], "text": [query.text for query in queries]}
    if excluded:
        columns[EXCLUDED_IDS] = [sorted(excluded.get(query.id, ())) for query in queries]
    _write_corpus(folder / "corpus.arrow", dataset)
    return {
        "corpus": datasets.Dataset.from_file(str(folder / "corpus.arrow")),
        "queries": datasets.Dataset.from_dict(columns),
        "relevant_docs": _grades(dataset.qrels(split)),
    }


def _write_corpus(path: Path, dataset: Dataset) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, _CORPUS) as writer:
        documents = iter(dataset.documents())
        while part := list(islice(documents, _ROWS)):
            rows = {"id": [one.id for one in part], "title": [one.title for one in part]}
            writer.write_batch(pa.record_batch({**rows, "text": [one.text for one in part]}, schema=_CORPUS))


def _grades(qrels: Qrels) -> Qrels:
    # pytrec_eval writes outside its memory for grades of -2 and less.
    return {query: {name: max(grade, 0) for name, grade in judged.items()} for query, judged in qrels.items()}
