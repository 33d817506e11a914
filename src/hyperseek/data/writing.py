"""Writing prepared folders and BEIR folders: streaming, each text once, there whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from hyperseek._bounded import PathLike
from hyperseek._files import write_json
from hyperseek._fingerprint import fingerprint_json
from hyperseek._folders import staged_folder
from hyperseek._long_work import progress
from hyperseek._relevance import Relevance, key_name, text_key
from hyperseek.data._dataset import Dataset
from hyperseek.data._examples import ExampleItem, TrainingExample, cleaned, example_record, source_and_id
from hyperseek.data._prepared import (
    DOCUMENTS,
    EXAMPLES,
    INFO,
    PREPARED_FILES,
    RELEVANT,
    TRAINED,
    PreparedInfo,
    RefinedInfo,
    SourceInfo,
)
from hyperseek.data._qrels import write_qrels
from hyperseek.data.lines import gzip_json_lines
from hyperseek.data.report import ErrorReport
from hyperseek.errors import DataError, InputError

_Write: TypeAlias = Callable[[Mapping[str, Any]], bytes]


class ExampleWriter:
    """Streams examples to a prepared folder; made by `example_writer`."""

    def __init__(self, staging: Path, write_document: _Write, write_example: _Write) -> None:
        self._staging = staging
        self._write_document, self._write_example = write_document, write_example
        self._texts: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self.examples = self.positives = self.negatives = self.scored = 0
        self.trained: dict[str, set[str]] = {}
        # For the caller to fill: what is relevant to queries of which no example is written.
        self.relevance = Relevance()

    def add(self, example: TrainingExample) -> None:
        """Write an example, and the texts of its items that are new.

        Args:
            example: One that `cleaned` let pass.

        Raises:
            DataError: An id is not of the form `SOURCE/ID`, or was written before with another text.
        """
        for item in (*example.positives, *example.negatives):
            self._add_text(item, example)
        self._digest.update(self._write_example(example_record(example)))
        for item in example.positives:
            source, original = source_and_id(item.id)
            self.trained.setdefault(source, set()).add(original)
        self.examples += 1
        self.positives += len(example.positives)
        self.negatives += len(example.negatives)
        self.scored += sum(item.score is not None for item in (*example.positives, *example.negatives))

    def finish(
        self, sources: Iterable[SourceInfo], options: Mapping[str, Any], *, refined: Iterable[RefinedInfo] = ()
    ) -> PreparedInfo:
        """Write the two JSON files and return what the first says.

        Args:
            sources: Where the examples come from.
            options: What they were made with.
            refined: How they were mined and filtered, in order.

        Returns:
            The content of `prepared.json`.

        Raises:
            InputError: No example was written.
        """
        sources, refined = tuple(sources), tuple(refined)
        if not self.examples:
            dropped = [*(source.dropped for source in sources), *(part.dropped for part in refined)]
            lines = [line for part in dropped for line in ErrorReport.from_dict(part).lines()]
            raise InputError(f"no training example is left; dropped: {'; '.join(lines) or 'nothing'}")
        self._write_relevance()
        info = PreparedInfo(
            fingerprint=_with_settings(self._digest.hexdigest()[:32], refined),
            examples=self.examples,
            documents=len(self._texts),
            positives=self.positives,
            negatives=self.negatives,
            scored=self.scored,
            relevant=len(self.relevance),
            sources=sources,
            options=dict(options),
            refined=refined,
        )
        write_json(self._staging / TRAINED, {source: sorted(ids) for source, ids in sorted(self.trained.items())})
        write_json(self._staging / INFO, info.model_dump(mode="json"))
        return info

    def _write_relevance(self) -> None:
        with gzip_json_lines(self._staging / RELEVANT) as write:
            for query, documents in self.relevance:
                record = {"query": key_name(query), "documents": [key_name(key) for key in sorted(documents)]}
                self._digest.update(write(record))

    def _add_text(self, item: ExampleItem, example: TrainingExample) -> None:
        known = self._texts.get(item.id)
        if known is None:
            if not all(source_and_id(item.id)):
                raise DataError(f"query {example.query.id!r}: item id {item.id!r} is not of the form SOURCE/ID")
            self._texts[item.id] = hash(item.text)
            self._digest.update(self._write_document({"_id": item.id, "text": item.text}))
        elif known != hash(item.text):
            raise DataError(
                f"query {example.query.id!r}: document {item.id!r} came before with another text; "
                f"ids must name one text, so rename or remove one of the two",
                path=example.source,
            )


@contextmanager
def example_writer(folder: PathLike, *, overwrite: bool) -> Iterator[ExampleWriter]:
    """Open a prepared folder for writing; `finish` must be the last call in the block.

    Args:
        folder: The folder.
        overwrite: Replace an older prepared folder.

    Yields:
        The writer.

    Raises:
        InputError: The folder exists and may not be replaced.
    """
    with (
        staged_folder(folder, overwrite=overwrite, owned=PREPARED_FILES) as staging,
        gzip_json_lines(staging / DOCUMENTS) as write_document,
        gzip_json_lines(staging / EXAMPLES) as write_example,
    ):
        yield ExampleWriter(staging, write_document, write_example)


def write_examples(
    examples: Iterable[TrainingExample], folder: PathLike, *, source: str = "examples", overwrite: bool = False
) -> PreparedInfo:
    """Write examples that a program made (mined, scored by a teacher) as a prepared folder.

    Args:
        examples: Their ids of the form `SOURCE/ID`.
        folder: The folder; it is there whole or not at all.
        source: What made them, for the record.
        overwrite: Replace an older prepared folder.

    Returns:
        What was written, and what was dropped.

    Raises:
        DataError: An id is not of that form, or names two texts.
        InputError: The folder exists and may not be replaced, or no example is left.
    """
    report = ErrorReport()
    with example_writer(folder, overwrite=overwrite) as writer:
        for example in examples:
            kept = cleaned(example, report)
            if kept:
                writer.add(kept)
            else:
                writer.relevance.add(text_key(example.query.text), example.relevant_keys())
        info = SourceInfo(
            name=source, source=source, kind="examples", examples=writer.examples, dropped=report.to_dict()
        )
        return writer.finish([info], {})


def _with_settings(content: str, refined: tuple[RefinedInfo, ...]) -> str:
    if not refined:
        return content
    return fingerprint_json([content, [part.model_dump(mode="json") for part in refined]])


_FIELDS = ("_id", "title", "text")
_OWNED = ("corpus.jsonl.gz", "queries.jsonl.gz", "qrels")


def write_beir(dataset: Dataset, folder: PathLike, *, overwrite: bool = False) -> None:
    """Write `corpus.jsonl.gz`, `queries.jsonl.gz` and `qrels/SPLIT.tsv`; the same content gives the same bytes.

    Args:
        dataset: The collection.
        folder: The folder; it is there whole or not at all.
        overwrite: Replace a folder that an earlier call wrote.

    Raises:
        InputError: The folder exists, or an id or a metadata key cannot be written in this form.
    """
    with staged_folder(folder, overwrite=overwrite, owned=_OWNED) as staging:
        with (
            gzip_json_lines(staging / "corpus.jsonl.gz") as write,
            progress(f"writing {dataset.name}", unit="documents") as bar,
        ):
            for document in dataset.documents():
                write(
                    {"_id": document.id, "title": document.title, "text": document.text}
                    | _extra(document.id, document.metadata)
                )
                bar.advance()
        with gzip_json_lines(staging / "queries.jsonl.gz") as write:
            for query in dataset.queries():
                write({"_id": query.id, "text": query.text} | _extra(query.id, query.metadata))
        for split in dataset.splits:
            write_qrels(dataset.qrels(split), staging / "qrels" / f"{split}.tsv")


def _extra(identity: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    clash = [key for key in _FIELDS if key in metadata]
    if clash:
        raise InputError(f"metadata of {identity!r} has the key {clash[0]!r}, which BEIR keeps for the record itself")
    return dict(metadata)
