"""Questions with what was retrieved and answered: the record that all of RAG evaluation reads and writes.

Fields have the names of ragas' `SingleTurnSample`, so that files go both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hyperseek._bounded import PathLike
from hyperseek._config import Config
from hyperseek._relevance import excluded_ids, is_relevant
from hyperseek.data.question_tables import content_id, question_rows
from hyperseek.data.reading import Faults
from hyperseek.errors import DataError, InputError, UnknownNameError, shown
from hyperseek.types import Query

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.index import Index

ANSWER_FIELDS = ("answers", "answer", "references", "reference", "reference_answers")
"""Fields of the queries' metadata that may hold reference answers, a text or a list; the first that is there counts."""


class SentenceLabels(Config):
    """RAGBench's labels of one recorded response to a question.

    Attributes:
        documents: Ids of the documents that it was made from.
        sentences: Of each document, its sentences as key and text.
        relevant: Keys of the sentences that help to answer the question; None if unlabelled.
        utilized: Keys of the sentences that the response used; None if unlabelled.
        response: The response.
        response_sentences: Its sentences as key and text.
        unsupported: Keys of the response's sentences that the documents do not support; None if unlabelled.
        support: For sentences of the response, keys of the sentences that support them.
        adherence: Whether all of the response is supported; None if unlabelled.
        split: The split that the record is of.
    """

    documents: tuple[str, ...] = ()
    sentences: tuple[tuple[tuple[str, str], ...], ...] = ()
    relevant: tuple[str, ...] | None = None
    utilized: tuple[str, ...] | None = None
    response: str = ""
    response_sentences: tuple[tuple[str, str], ...] = ()
    unsupported: tuple[str, ...] | None = None
    support: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    adherence: bool | None = None
    split: str | None = None

    @model_validator(mode="after")
    def _check_sentences(self) -> SentenceLabels:
        if len(self.sentences) != len(self.documents):
            raise ValueError(f"{len(self.documents)} documents need as many lists of sentences")
        return self


class RagSample(Config):
    """A question, what was retrieved for it, and what was answered.

    Attributes:
        id: Unique among its questions.
        user_input: The question.
        retrieved_contexts: Texts of the contexts, best first.
        retrieved_context_ids: Ids of their documents; empty if unknown.
        response: The answer; None before there is one.
        references: Reference answers; empty if there are none.
        reference_context_ids: Ids of the documents that hold the evidence; None if unknown.
        grades: Grades of judged documents by id; empty if unknown.
        labels: RAGBench's labels, one for each recorded response.
    """

    id: str
    user_input: str
    retrieved_contexts: tuple[str, ...] = ()
    retrieved_context_ids: tuple[str, ...] = ()
    response: str | None = None
    references: tuple[str, ...] = ()
    reference_context_ids: tuple[str, ...] | None = None
    grades: dict[str, int] = Field(default_factory=dict)
    labels: tuple[SentenceLabels, ...] = ()

    def to_ragas(self) -> dict[str, Any]:
        """Return the fields under ragas' names, without those that are unknown."""
        values: dict[str, Any] = {"user_input": self.user_input, "retrieved_contexts": list(self.retrieved_contexts)}
        if self.retrieved_context_ids:
            values["retrieved_context_ids"] = list(self.retrieved_context_ids)
        if self.reference_context_ids is not None:
            values["reference_context_ids"] = list(self.reference_context_ids)
        if self.response is not None:
            values["response"] = self.response
        if self.references:
            values["reference"] = self.references[0]
        return values


def retrieve_contexts(
    index: Index,
    dataset: Dataset,
    *,
    split: str = "test",
    k: int = 5,
    context: Literal["passage", "document"] = "passage",
    questions: int | None = None,
    **search: Any,
) -> list[RagSample]:
    """Retrieve contexts for the questions of a collection.

    Args:
        index: An index of its documents, of any family; of passages, too.
        dataset: Questions and evidence. Reference answers are a field of the queries' metadata, see `ANSWER_FIELDS`.
        split: The split of the judgements.
        k: Contexts per question, at least 1.
        context: In an index of passages, what is read of a document found: its best passage, or all of it.
        questions: Only the first so many; None for all.
        **search: Further arguments of `Index.search`, as `plan`, `engine` and `options`.

    Returns:
        A sample for each question, without responses.

    Raises:
        UnknownNameError: There is no such split.
        InputError: A number is out of range, or reference answers are not texts.
    """
    if context not in ("passage", "document"):
        raise UnknownNameError("kind of context", str(context), ("passage", "document"))
    if questions is not None and questions < 1:
        raise InputError(f"questions must be 1 or more, not {questions}")
    qrels = dataset.qrels(split)
    queries = dataset.queries(split)[:questions]
    left_out = excluded_ids(queries)
    exclude = [left_out.get(query.id, frozenset()) for query in queries] if left_out else None
    found = index.search([query.text for query in queries], k=k, exclude=exclude, **search)
    whole = {}
    if context == "document" and index.passages is not None:
        whole = index.get(list(dict.fromkeys(hit.id for hits in found for hit in hits)))
    samples = []
    for query, hits in zip(queries, found, strict=True):
        texts = []
        for hit in hits:
            document = whole.get(hit.id, hit.document)
            texts.append("" if document is None else document.full_text)
        given = _question_fields(query, qrels[query.id])
        ids = tuple(hit.id for hit in hits)
        samples.append(RagSample(retrieved_contexts=tuple(texts), retrieved_context_ids=ids, **given))
    return samples


def recorded_samples(dataset: Dataset, *, split: str = "test", questions: int | None = None) -> list[RagSample]:
    """Return the recorded responses of a labelled collection with the documents that they were made from.

    Args:
        dataset: RAGBench's, as of `open_dataset("ragbench:...")`.
        split: The split.
        questions: Only the first so many; None for all.

    Returns:
        A sample for each recorded response of the split; ids of further responses to a question end in `+2` and so on.

    Raises:
        UnknownNameError: There is no such split.
        DataError: The collection has no recorded responses.
    """
    qrels = dataset.qrels(split)
    texts = {document.id: document.text for document in dataset.documents()}
    samples = []
    for query in dataset.queries(split)[:questions]:
        given = _question_fields(query, qrels[query.id])
        for number, label in enumerate(_of_split(given["labels"], split), start=1):
            own = {
                "id": query.id if number == 1 else f"{query.id}+{number}",
                "retrieved_contexts": tuple(texts[one] for one in _known(label.documents, texts, query.id)),
                "retrieved_context_ids": label.documents,
                "response": label.response,
                "labels": (label,),
                "references": (),  # the response itself
            }
            samples.append(RagSample(**{**given, **own}))
    if not samples:
        raise DataError(f"{dataset.name} has no recorded responses with labels; give ragbench:SET")
    return samples


def read_samples(path: PathLike) -> list[RagSample]:
    """Read questions, contexts and answers from a table with ragas' field names.

    Args:
        path: A `.jsonl`, `.csv`, `.parquet` or `.arrow` file with `user_input`, and any of `response`, `reference`,
            `retrieved_contexts`, `reference_contexts`, `retrieved_context_ids` and `reference_context_ids`.

    Returns:
        The samples, in order. Contexts without ids get ids of their content.

    Raises:
        DataError: The file is missing, or a row is of another form.
    """
    samples = []
    for identity, row in question_rows(path, Faults()):
        retrieved = row.get("retrieved_contexts", [])
        ids = row.get("retrieved_context_ids") or [content_id(text) for text in retrieved]
        if len(ids) != len(retrieved):
            message = (
                f"question {identity!r} has {len(retrieved)} retrieved_contexts and {len(ids)} retrieved_context_ids"
            )
            raise DataError(message, path=path)
        evidence = row.get("reference_context_ids")
        if evidence is None and "reference_contexts" in row:
            evidence = [content_id(text) for text in row["reference_contexts"]]
        samples.append(
            RagSample(
                id=identity,
                user_input=row["user_input"],
                retrieved_contexts=tuple(retrieved),
                retrieved_context_ids=tuple(ids),
                response=row.get("response"),
                references=(row["reference"],) if "reference" in row else (),
                reference_context_ids=None if evidence is None else tuple(dict.fromkeys(evidence)),
                grades=dict.fromkeys(evidence or [], 1),
            )
        )
    if not samples:
        raise DataError("has no questions", path=path)
    return samples


def _known(documents: Sequence[str], texts: Mapping[str, str], query: str) -> Sequence[str]:
    for one in documents:
        if one not in texts:
            raise DataError(f"the labels of {query!r} name the document {one!r}, which is not in the collection")
    return documents


def _of_split(labels: Sequence[SentenceLabels], split: str) -> Iterator[SentenceLabels]:
    return (label for label in labels if label.split in (None, split))


def _question_fields(query: Query, judged: Mapping[str, int]) -> dict[str, Any]:
    labels = query.metadata.get("ragbench") or ()
    if not isinstance(labels, list | tuple):
        raise DataError(f"the labels of {query.id!r}, in the field ragbench, must be a list, not {shown(labels)}")
    evidence = tuple(document for document, grade in judged.items() if is_relevant(grade))
    return {
        "id": query.id,
        "user_input": query.text,
        "references": _answers(query),
        "reference_context_ids": evidence,
        "grades": dict(judged),
        "labels": tuple(SentenceLabels.from_mapping(one, source=f"the labels of {query.id!r}", error=DataError)
                        for one in labels),
    }  # fmt: skip


def _answers(query: Query) -> tuple[str, ...]:
    field = next((name for name in ANSWER_FIELDS if query.metadata.get(name)), None)
    if field is None:
        return ()
    value = query.metadata[field]
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, list | tuple) or not all(isinstance(one, str) for one in answers):
        raise DataError(f"{field} of query {query.id!r} must be a text or a list of texts")
    return tuple(dict.fromkeys(answers))
