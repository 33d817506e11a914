"""Tables of questions with answers and contexts: RAGBench's, and any with the field names of ragas.

RAGBench (arXiv 2407.11005) has one row per recorded response: a question, the documents that a retriever found for it,
all cut into sentences with keys, and which sentences are relevant, used and supported. As a collection, its documents
are the distinct ones in order of first appearance, with ids made of their content, and evidence are the documents of a
question that hold a relevant sentence. What the queries' metadata say besides:

```
answers     reference answers, distinct
ragbench    one record per recorded response: documents (ids), sentences (of each document: [key, text]), relevant and
            utilized (keys), response, response_sentences ([key, text]), unsupported (keys), adherence
```
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperseek._bounded import LONGEST_LINE, PathLike, json_value
from hyperseek._documents import id_of
from hyperseek._fingerprint import fingerprint_texts
from hyperseek.data._dataset import Dataset
from hyperseek.data._qrels_and_runs import Judgement
from hyperseek.data.files.formats import separated_rows
from hyperseek.data.hub import hub_rows
from hyperseek.data.open import SourceKind
from hyperseek.data.reading import Faults, Row, base_stem, base_suffix
from hyperseek.data.tables import file_rows, row_files
from hyperseek.errors import DataError, InputError, UnknownNameError, shown
from hyperseek.types import Document, Query

RAGBENCH_SETS = (
    "covidqa",
    "cuad",
    "delucionqa",
    "emanual",
    "expertqa",
    "finqa",
    "hagrid",
    "hotpotqa",
    "msmarco",
    "pubmedqa",
    "tatqa",
    "techqa",
)
_RAGBENCH_ON_THE_HUB = "galileo-ai/ragbench"
_RAGBENCH_SPLITS = ("train", "validation", "test")
_RAGBENCH_GRAMMAR = "ragbench:[PLACE#]SET[+SPLIT]"
_PART_OF_SEVERAL = re.compile(r"-\d{5}-of-\d{5}")
_KEY = 16  # hexadecimal digits of the id of a document that has none

Sentences = list[list[str]]
"""Sentences of one text, each as its key and its text."""


def content_id(text: str) -> str:
    """Return the id of a document that has none, made of its content."""
    return fingerprint_texts([text])[:_KEY]


class RagbenchSource:
    """One configuration of RAGBench.

    Args:
        place: A folder with a folder for each configuration, which holds a file or a folder for each split; or
            `organisation/name` on the Hub.
        subset: The configuration.
        only: The one split whose documents and questions the collection has, as in HypRAG's evaluation; None for all.
    """

    def __init__(self, place: str, subset: str, *, only: str | None = None) -> None:
        self._place, self._subset = place, subset
        self._files = self._found_files()
        known = _RAGBENCH_SPLITS if self._files is None else tuple(self._files)
        if only is not None and only not in known:
            raise UnknownNameError(f"split of ragbench:{subset}", only, known)
        self.splits = known if only is None else (only,)

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the distinct documents, in order of first appearance."""
        seen: set[str] = set()
        for split in self.splits:
            for _, _, record in self._records(split, faults):
                for identity, text in zip(record["documents"], record["texts"], strict=True):
                    if identity not in seen:
                        seen.add(identity)
                        yield Document(identity, text)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the questions; several responses to one are records of one query."""
        found: dict[str, tuple[str, list[dict[str, Any]]]] = {}
        for split in self.splits:
            for line, identity, record in self._records(split, faults):
                question = record.pop("question")
                record.pop("texts")
                text, records = found.setdefault(identity, (question, []))
                if text != question:
                    message = f"question {identity!r} appears a second time with another text"
                    faults.found("duplicate_id", message, path=self._path(split), line=line)
                else:
                    records.append({"split": split, **record})
        for identity, (question, records) in found.items():
            answers = list(dict.fromkeys(record["response"] for record in records if record["response"]))
            yield Query(identity, question, {"answers": answers, "ragbench": records})

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream 1 for documents with a relevant sentence, 0 for a question's others; without labels all are 1."""
        grades: dict[tuple[str, str], int] = {}
        for _, identity, record in self._records(split, faults):
            for place, document in enumerate(record["documents"]):
                keys = {key for key, _ in record["sentences"][place]}
                grade = 1 if record["relevant"] is None else int(not keys.isdisjoint(record["relevant"]))
                pair = identity, document
                grades[pair] = max(grades.get(pair, 0), grade)
        for (identity, document), grade in grades.items():
            yield Judgement(identity, document, grade, self._path(split), None)

    def _records(self, split: str, faults: Faults) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield line, id, and what a row says: `question`, `texts`, and the fields of the queries' metadata."""
        path = self._path(split)
        for line, row in self._rows(split, faults):
            identity, question, texts = id_of(row.get("id")), row.get("question"), row.get("documents")
            if identity is None or not isinstance(question, str) or not question.strip() or not _is_texts(texts):
                message = f"needs an id, a question and a list of documents: {shown(dict(row), 200)}"
                faults.found("bad_field", message, path=path, line=line)
                continue
            texts = list(dict.fromkeys(texts or ()))
            try:
                labels = _labels(row, len(row["documents"]))
            except ValueError as error:
                faults.found("bad_field", f"row {identity!r}: {error}", path=path, line=line)
                continue
            places = [row["documents"].index(text) for text in texts]  # the sentences of each one's first appearance
            labels["sentences"] = [labels["sentences"][place] for place in places]
            ids = [content_id(text) for text in texts]
            yield line, identity, {"question": question, "texts": texts, "documents": ids, **labels}

    def _rows(self, split: str, faults: Faults) -> Iterator[Row]:
        if self._files is None:
            yield from hub_rows(f"{self._place}#{self._subset}", split)
            return
        for file in self._files[split]:
            yield from file_rows(file, faults)

    def _found_files(self) -> dict[str, list[Path]] | None:
        """Return the files of each split, or None for a dataset on the Hub."""
        if not Path(self._place).is_dir():
            return None
        folder = Path(self._place, self._subset)
        if not folder.is_dir():
            known = sorted(child.name for child in Path(self._place).iterdir() if child.is_dir())
            raise UnknownNameError(f"set of {self._place}", self._subset, known)
        found: dict[str, list[Path]] = {}
        for file in row_files(folder):
            first = file.relative_to(folder).parts[0]
            name = first if (folder / first).is_dir() else _PART_OF_SEVERAL.sub("", base_stem(first))
            found.setdefault(name, []).append(file)
        return found

    def _path(self, split: str) -> str:
        if self._files is not None:
            return str(Path(self._place, self._subset, split))
        return f"hub:{self._place}#{self._subset} {split}"


def open_ragbench(text: str) -> Dataset:
    """Open one configuration of RAGBench.

    Args:
        text: `[PLACE#]SET[+SPLIT]`: a folder or a name on the Hub, if it is not `galileo-ai/ragbench`; the
            configuration; and the only split whose documents and questions the collection has.

    Returns:
        The collection.

    Raises:
        UnknownNameError: RAGBench on the Hub has no such configuration, or there is no such split.
        InputError: The text is of another form.
    """
    place, _, rest = text.rpartition("#")
    subset, plus, only = rest.partition("+")
    if not all(re.fullmatch(r"\w[\w.-]*", part) for part in ([subset, only] if plus else [subset])):
        raise InputError(
            f"ragbench:{text} is not of the form {_RAGBENCH_GRAMMAR}; the sets are {', '.join(RAGBENCH_SETS)}"
        )
    if not place and subset not in RAGBENCH_SETS:
        raise UnknownNameError("set of RAGBench", subset, RAGBENCH_SETS)
    source = RagbenchSource(place or _RAGBENCH_ON_THE_HUB, subset, only=only or None)
    return Dataset(f"ragbench-{subset}{plus}{only}", source)


RAGBENCH = SourceKind(open_ragbench)


def _labels(row: Mapping[str, Any], documents: int) -> dict[str, Any]:
    """Return the labels of a row, with None for those it lacks; ValueError for those of another form."""
    sentences = row.get("documents_sentences") or [[] for _ in range(documents)]
    if not isinstance(sentences, list) or len(sentences) != documents:
        raise ValueError(f"documents_sentences must be a list for each of {documents} documents")
    relevant = _keys(row, "all_relevant_sentence_keys")
    support = _keys_of_support(row)
    unsupported = _keys(row, "unsupported_response_sentence_keys")
    adherence = row.get("adherence_score")
    response = row.get("response")
    if adherence not in (None, 0, 1):
        raise ValueError(f"adherence_score must be true or false, not {shown(adherence)}")
    if response is not None:
        response = _text(response, "response")
    return {
        "sentences": [_sentences(own, "documents_sentences") for own in sentences],
        "relevant": relevant if any(sentences) else None,
        "utilized": _keys(row, "all_utilized_sentence_keys"),
        "response": response or "",
        "response_sentences": _sentences(row.get("response_sentences") or [], "response_sentences"),
        "unsupported": unsupported,
        "support": support,
        "adherence": None if adherence is None else bool(adherence),
    }


def _sentences(given: object, name: str) -> Sentences:
    if not isinstance(given, list) or not all(
        isinstance(one, list) and len(one) == 2 and all(isinstance(part, str) for part in one) for one in given
    ):
        raise ValueError(f"{name} must be lists of [key, sentence], not {shown(given)}")
    return [list(one) for one in given]


def _keys(row: Mapping[str, Any], name: str) -> list[str] | None:
    keys = row.get(name)
    if keys is None:
        return None
    if not _is_texts(keys, empty=True):
        raise ValueError(f"{name} must be a list of keys, not {shown(keys)}")
    return list(dict.fromkeys(keys))


def _keys_of_support(row: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the keys of the sentences that support each sentence of the response."""
    given = row.get("sentence_support_information") or []
    if not isinstance(given, list):
        raise ValueError(f"sentence_support_information must be a list, not {shown(given)}")
    found: dict[str, list[str]] = {}
    for one in given:
        key = one.get("response_sentence_key") if isinstance(one, Mapping) else None
        if isinstance(key, str):
            found[key] = _keys(one, "supporting_sentence_keys") or []
    return found


def _is_texts(value: object, *, empty: bool = False) -> bool:
    return isinstance(value, list) and (empty or bool(value)) and all(isinstance(one, str) for one in value)


_LISTS = ("retrieved_contexts", "reference_contexts", "retrieved_context_ids", "reference_context_ids")
_TEXTS = ("response", "reference")


def question_rows(path: PathLike, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream the rows of a table with the field names of ragas' `SingleTurnSample`.

    Args:
        path: A `.jsonl`, `.csv`, `.parquet` or `.arrow` file. Lists in a cell of a `.csv` file are JSON, or as Python
            and so pandas write them.
        faults: Where rows of another form go.

    Yields:
        The question's id (`id`, or the row's number from 1), and those of `user_input`, `response`, `reference`,
        `retrieved_contexts`, `reference_contexts`, `retrieved_context_ids` and `reference_context_ids` that it has.
    """
    read = separated_rows if base_suffix(path) == ".csv" else file_rows
    seen: set[str] = set()
    for line, row in read(Path(path), faults):
        identity = id_of(row.get("id", row.get("_id"))) or str(line)
        question = row.get("user_input")
        if not isinstance(question, str) or not question.strip():
            message = f"user_input must be a question, not {shown(question)}; it has the fields {sorted(row)}"
            faults.found("missing_field", message, path=path, line=line)
            continue
        if identity in seen:
            faults.found("duplicate_id", f"id {identity!r} appears a second time", path=path, line=line)
            continue
        seen.add(identity)
        values: dict[str, Any] = {"user_input": question}
        try:
            values |= {name: _text(row[name], name) for name in _TEXTS if _is_there(row.get(name))}
            values |= {name: _texts(row[name], name) for name in _LISTS if _is_there(row.get(name))}
        except ValueError as error:
            faults.found("bad_field", f"row {identity!r}: {error}", path=path, line=line)
            continue
        yield identity, values


def _is_there(value: object) -> bool:
    """Return whether a cell is filled; pandas writes a column without any text as NaN."""
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {shown(value)}")
    return value


def _texts(given: object, name: str) -> list[str]:
    value: Any = _parsed(given) if isinstance(given, str) else given
    ids = [id_of(one) if name.endswith("_ids") else one for one in value] if isinstance(value, Sequence) else [None]
    if isinstance(value, str) or not all(isinstance(one, str) for one in ids):
        raise ValueError(f"{name} must be a list of texts, not {shown(given)}")
    return [str(one) for one in ids]


def _parsed(text: str) -> Any:
    try:
        return json_value(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text) if len(text) < LONGEST_LINE else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


class QuestionsSource:
    """A table of questions; its documents are the distinct reference contexts, and evidence those of a question.

    Args:
        path: The file.
    """

    splits = ("test",)

    def __init__(self, path: str) -> None:
        self._path = path

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the distinct reference contexts, in order of first appearance."""
        seen: set[str] = set()
        for _, row in question_rows(self._path, faults):
            for identity, text in self._contexts(row, faults):
                if identity not in seen:
                    seen.add(identity)
                    yield Document(identity, text)
        if not seen:
            raise DataError("has no reference_contexts, which are the documents", path=self._path)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the questions."""
        for identity, row in question_rows(self._path, faults):
            yield Query(identity, row["user_input"], {"answers": [row["reference"]] if "reference" in row else []})

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the reference contexts of each question, all of grade 1."""
        for identity, row in question_rows(self._path, faults):
            ids = row.get("reference_context_ids") or [own for own, _ in self._contexts(row, faults)]
            for document in dict.fromkeys(ids):
                yield Judgement(identity, document, 1, self._path, None)

    def _contexts(self, row: Mapping[str, Any], faults: Faults) -> list[tuple[str, str]]:
        texts = row.get("reference_contexts", [])
        ids = row.get("reference_context_ids")
        if ids is None:
            return [(content_id(text), text) for text in texts]
        if texts and len(ids) != len(texts):
            message = f"has {len(texts)} reference_contexts and {len(ids)} reference_context_ids"
            faults.found("bad_field", message, path=self._path)
        return list(zip(ids, texts, strict=False))


def open_questions(path: str) -> Dataset:
    """Open a table of questions with the field names of ragas, as a collection with the split `test`."""
    row_file = Path(path)
    if base_suffix(row_file) != ".csv":
        row_files(row_file)
    return Dataset(base_stem(row_file), QuestionsSource(path))


QUESTIONS = SourceKind(open_questions)
