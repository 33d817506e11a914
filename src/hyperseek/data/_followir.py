"""FollowIR (arXiv 2403.15246): queries with instructions in two versions; the second makes documents irrelevant.

Each query is there twice, as `310-og` and `310-changed`, as in mteb; its text is the query and the instruction, which
is also its field `instruction`. The splits are `og`, `changed`, and `test` with both. The documents to rerank are
`Dataset.candidates()`.

```
FOLDER/core17/corpus.jsonl, queries.jsonl, top_ranked.jsonl, qrels_og/test.jsonl, qrels_changed/test.jsonl
```

is what a clone of `jhu-clsp/core17-instructions` holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hyperseek._documents import find_key, id_of
from hyperseek.data._benchmark_collections import split_place
from hyperseek.data._dataset import Dataset
from hyperseek.data._qrels_and_runs import DOCUMENT_NAMES, GRADE_NAMES, QUERY_NAMES, Judgement, grade_of
from hyperseek.data.candidate_files import add_candidates
from hyperseek.data.hub import hub_rows
from hyperseek.data.open import SourceKind
from hyperseek.data.reading import Faults, FieldKeys, Row, documents_from_rows, queries_from_rows
from hyperseek.data.tables import file_rows
from hyperseek.errors import DataError, shown
from hyperseek.types import Document, Query

VERSIONS = ("og", "changed")
"""Endings of the ids: of queries with the original instruction, and with the changed one."""
INSTRUCTION = "instruction"
FOLLOWIR_GROUPS = {"FollowIR": ("core17", "news21", "robust04")}
_PLAIN = "+plain"


class FollowIRSource:
    """One set.

    Args:
        place: A clone of its repository, or its name on the Hub.
        plain: Whether the texts of queries leave the instruction out, for models that read it as a card.
    """

    splits = ("test", *VERSIONS)

    def __init__(self, place: str, *, plain: bool) -> None:
        self._place = place
        self._plain = plain

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents."""
        return documents_from_rows(self._rows("corpus", faults), self._path("corpus"), FieldKeys(), faults)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries, each in both versions."""
        path = self._path("queries")
        for query in queries_from_rows(self._rows("queries", faults), path, FieldKeys(), faults):
            fields = dict(query.metadata)
            told = {version: fields.pop(f"{INSTRUCTION}_{version}", None) for version in VERSIONS}
            for version, instruction in told.items():
                if not isinstance(instruction, str):
                    message = f"query {query.id!r} has no text in {INSTRUCTION}_{version}"
                    faults.found("missing_field", message, path=path)
                    continue
                text = query.text if self._plain else f"{query.text} {instruction}".strip()
                yield Query(f"{query.id}-{version}", text, {**fields, INSTRUCTION: instruction})

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements of one version, or of both."""
        for version in VERSIONS if split == "test" else (split,):
            path = self._path(f"qrels_{version}")
            for line, row in self._rows(f"qrels_{version}", faults):
                keys = [find_key(names, row) for names in (QUERY_NAMES, DOCUMENT_NAMES, GRADE_NAMES)]
                query, document = (None if key is None else id_of(row[key]) for key in keys[:2])
                grade = None if keys[2] is None else grade_of(row[keys[2]])
                if query is None or document is None or grade is None:
                    faults.found("bad_field", f"not a judgement: {shown(row)}", path=path, line=line)
                else:
                    yield Judgement(f"{query}-{version}", document, grade, path, line)

    def candidates(self) -> dict[str, list[str]]:
        """Return the documents to rerank, the same for both versions of a query."""
        lists: dict[str, list[str]] = {}
        for line, row in self._rows("top_ranked", Faults()):
            add_candidates(lists, row, self._path("top_ranked"), line)
        return {f"{query}-{version}": list(dict.fromkeys(ids)) for query, ids in lists.items() for version in VERSIONS}

    def _rows(self, table: str, faults: Faults) -> Iterator[Row]:
        folder = Path(self._place)
        if not folder.is_dir():
            return hub_rows(f"{self._place}#{table}", None)
        names = (f"{table}.jsonl", f"{table}.jsonl.gz", f"{table}/test.jsonl", f"{table}/test.jsonl.gz", table)
        found = next((folder / name for name in names if (folder / name).exists()), None)
        if found is None:
            raise DataError(f"has no {table}.jsonl and no folder {table}", path=folder)
        return file_rows(found, faults)

    def _path(self, table: str) -> str:
        return str(Path(self._place, table)) if Path(self._place).is_dir() else f"hub:{self._place}#{table}"


def open_followir(text: str) -> Dataset:
    """Open a set of FollowIR: `core17`, `news21` or `robust04`, or `FOLDER#SET`; `+plain` leaves instructions out."""
    plain = text.endswith(_PLAIN)
    folder, subset = split_place(text.removesuffix(_PLAIN), "followir", FOLLOWIR_GROUPS["FollowIR"])
    place = f"jhu-clsp/{subset}-instructions"
    if folder is not None:
        inner = next((folder / name for name in (subset, f"{subset}-instructions") if (folder / name).is_dir()), None)
        place = str(inner or folder)
    # Judgements name documents beyond the collection's excerpt.
    return Dataset(f"followir-{subset}", FollowIRSource(place, plain=plain), check=False)


FOLLOWIR = SourceKind(open_followir, groups=FOLLOWIR_GROUPS)
