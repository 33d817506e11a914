"""Prepared folders: made from several sources, or from a program's examples."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from hyperseek._bounded import PathLike, path_text
from hyperseek._config import Config
from hyperseek._files import write_json
from hyperseek._fingerprint import fingerprint_json
from hyperseek._folders import staged_folder
from hyperseek._long_work import progress
from hyperseek._relevance import Relevance, key_name, text_key
from hyperseek.data._dataset import Dataset
from hyperseek.data._judged import QrelsOptions, examples_from_qrels
from hyperseek.data.examples import (
    CoarseOptions,
    ExampleItem,
    TrainingExample,
    cleaned,
    example_record,
    source_and_id,
    with_coarse,
)
from hyperseek.data.open import ParsedSource, open_dataset, parse_source
from hyperseek.data.prepared import (
    DOCUMENTS,
    EXAMPLES,
    INFO,
    PREPARED_FILES,
    RELEVANT,
    TRAINED,
    LeakCheck,
    LeakInfo,
    LeakOptions,
    PreparedInfo,
    RefinedInfo,
    SourceInfo,
    read_prepared,
    refuse_leaks,
)
from hyperseek.data.reading import ErrorReport, OnError, gzip_json_lines
from hyperseek.data.tables import rows_fingerprint
from hyperseek.data.tables.columns import (
    ColumnsOptions,
    HypencoderOptions,
    examples_from_columns,
    examples_from_hypencoder,
    table_name,
)
from hyperseek.data.tables.instructed import KalmOptions, ReasonIROptions, examples_from_kalm, examples_from_reasonir
from hyperseek.errors import DataError, InputError, UnknownNameError, shown


class PrepareOptions(Config):
    """All options of `prepare`.

    Attributes:
        qrels: Options of collections.
        hypencoder: Options of Hypencoder's JSON lines.
        columns: Options of tables of queries and positives.
        reasonir: Options of tables in ReasonIR's form.
        kalm: Options of tables in KaLM's form.
        coarse: Where coarse positives come from, of all kinds of sources.
        leaks: Evaluations that must not overlap with the examples.
        task: The task of examples without one.
        instruction: The instruction of examples without one.
    """

    qrels: QrelsOptions = QrelsOptions()
    hypencoder: HypencoderOptions = HypencoderOptions()
    columns: ColumnsOptions = ColumnsOptions()
    reasonir: ReasonIROptions = ReasonIROptions()
    kalm: KalmOptions = KalmOptions()
    coarse: CoarseOptions = CoarseOptions()
    leaks: LeakOptions = LeakOptions()
    task: str | None = None
    instruction: str | None = None


class PrepareRecipe(PrepareOptions):
    """The input of `hyperseek prepare`: sources and options, from a file, the command line, or both.

    Attributes:
        sources: The sources of `prepare`.
    """

    sources: tuple[str, ...] = ()

    def options(self) -> PrepareOptions:
        """Return the options alone."""
        return PrepareOptions(**{name: getattr(self, name) for name in PrepareOptions.model_fields})


def prepare(
    folder: PathLike,
    sources: Sequence[PathLike],
    *,
    options: PrepareOptions | None = None,
    on_error: OnError = "raise",
    overwrite: bool = False,
) -> PreparedInfo:
    """Write the training examples of all sources into one folder; `hyperseek.mining.refine` mines and filters them.

    Args:
        folder: The folder, written atomically.
        sources: Each `[NAME=]PLACE[:SPLIT]` with a collection for `open_dataset` (the split is `train` if not given),
            or `[NAME=]` and `hypencoder:TABLE`, `columns:TABLE`, `reasonir:TABLE` or `kalm:TABLE`; a table is a
            `.jsonl`, `.parquet` or `.arrow` file, a folder of such files, or `hub:NAME[:SPLIT]`.
            Splits of one collection share its name, so that each document is stored once.
        options: How examples are made; None for the defaults.
        on_error: Stop at a bad record, or skip and count it.
        overwrite: Replace an existing prepared folder.

    Returns:
        A description of the folder, and of dropped records.

    Raises:
        DataError: A source has a bad record, or one id names two texts.
        InputError: No source, a source given twice, two sources of one name, a source that is already prepared, no
            example left, one that an evaluation shares and `leaks.action` is `fail`, or the folder exists and may not
            be replaced.
    """
    if isinstance(sources, str | bytes | os.PathLike) or not isinstance(sources, Sequence):
        raise InputError(f"sources must be a list, as in ['pydocs:train'], not {shown(sources)}")
    options = options or PrepareOptions()
    for done in (source for source in sources if os.path.isfile(Path(path_text(source)) / INFO)):
        raise InputError(
            f"{done} is already prepared; mine or filter it with `hyperseek mine {done} FOLDER INDEX`, or with "
            f"hyperseek.mining.refine"
        )
    opened = _open_all([parse_source(source) for source in sources], on_error)
    checks = [_leak_check(given, options.leaks) for given in options.leaks.against]
    infos: list[SourceInfo] = []
    with example_writer(folder, overwrite=overwrite) as writer, progress("preparing", unit="examples") as bar:
        for name, source, dataset in opened:
            bar.describe(f"preparing {source.given}")
            report = ErrorReport()
            before = writer.examples
            for example in _examples(name, source, dataset, options, on_error, report, writer.relevance):
                known = [check.finds(example) for check in checks]  # each counts for itself
                if any(known) and options.leaks.action == "drop":
                    report.add("known_to_evaluation", f"query {example.query.id}")
                else:
                    writer.add(_with_defaults(example, options))
                bar.advance()
            if dataset is not None:
                _merge_new(dataset, source.split or "train", infos, report)
            report.log(source.given, level=logging.INFO)
            infos.append(_info(name, source, dataset, writer.examples - before, report))
        leaks = [check.info() for check in checks]
        refuse_leaks(leaks)
        return writer.finish(infos, options.model_dump(mode="json", exclude_defaults=True), leaks=leaks)


def read_source(
    source: PathLike, *, options: PrepareOptions | None = None, on_error: OnError = "raise"
) -> Iterator[TrainingExample]:
    """Stream the training examples of a prepared folder, or of a source that `prepare` reads.

    Args:
        source: The folder, or `[NAME=]PLACE[:SPLIT]` as for `prepare`.
        options: How examples are made; None for the defaults.
        on_error: Stop at a bad record, or leave it out and count it.

    Yields:
        Examples in order.

    Raises:
        DataError: There is no such source, or it has a bad record.
    """
    if os.path.isfile(Path(path_text(source)) / INFO):
        yield from read_prepared(source).examples()
        return
    report = ErrorReport()
    ((name, parsed, dataset),) = _open_all([parse_source(source)], on_error)
    yield from _examples(name, parsed, dataset, options or PrepareOptions(), on_error, report)
    report.log(parsed.given, level=logging.INFO)


def _leak_check(given: str, options: LeakOptions) -> LeakCheck:
    parsed = parse_source(given)
    if parsed.kind != "qrels":
        raise InputError(f"leaks.against names collections with judgements, not the table {given!r}")
    return LeakCheck(given, open_dataset(parsed.place, name=parsed.name), parsed.split or "test", options.action)


def _open_all(parsed: Sequence[ParsedSource], on_error: OnError) -> list[tuple[str, ParsedSource, Dataset | None]]:
    if not parsed:
        raise InputError("give at least one source, as in 'pydocs:train'")
    opened: list[tuple[str, ParsedSource, Dataset | None]] = []
    datasets: dict[tuple[str, str | None], Dataset] = {}
    places: dict[str, str] = {}
    for source in parsed:
        dataset = None
        if source.kind == "qrels":
            key = source.place, source.name
            if key not in datasets:
                datasets[key] = open_dataset(source.place, name=source.name, on_error=on_error)
            dataset = datasets[key]
            _check_split(dataset, source)
        name = dataset.name if dataset else source.name or table_name(source.place)
        if places.setdefault(name, source.place) != source.place:
            raise InputError(
                f"{places[name]!r} and {source.place!r} are both called {name!r}; name one, as in other={source.given}"
            )
        if any((name, source.kind, source.split or "train") == (n, s.kind, s.split or "train") for n, s, _ in opened):
            raise InputError(f"source {source.given!r} is given twice")
        opened.append((name, source, dataset))
    return opened


def _check_split(dataset: Dataset, source: ParsedSource) -> None:
    if not dataset.splits:
        raise DataError(
            f"has no judgements to learn from; use 'columns:{source.place}' for rows of queries and positives, "
            f"and 'hypencoder:{source.place}' for Hypencoder's lines",
            path=source.place,
        )
    split = source.split or "train"
    if split not in dataset.splits:
        raise UnknownNameError(f"split of {dataset.name}", split, dataset.splits)


def _examples(
    name: str,
    source: ParsedSource,
    dataset: Dataset | None,
    options: PrepareOptions,
    on_error: OnError,
    report: ErrorReport,
    relevance: Relevance | None = None,
) -> Iterator[TrainingExample]:
    if dataset is None:
        return examples_from_table(source, options, name=name, on_error=on_error, report=report)
    split = source.split or "train"
    return examples_from_qrels(
        dataset, split, options=options.qrels, coarse=options.coarse, report=report, relevance=relevance
    )


_TABLE_READERS: dict[str, Callable[..., Iterator[TrainingExample]]] = {
    "hypencoder": examples_from_hypencoder,
    "columns": examples_from_columns,
    "reasonir": examples_from_reasonir,
    "kalm": examples_from_kalm,
}


def examples_from_table(
    source: ParsedSource,
    options: PrepareOptions,
    *,
    name: str | None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[TrainingExample]:
    """Stream the examples of a table, whatever its form.

    Args:
        source: It names the table, its form and its split.
        options: Those of its form, and of coarse positives, are used.
        name: First part of ids; None derives it.
        on_error: Stop at a bad row, or leave it out and count it.
        report: Where to count, drops included; None makes one that is logged at the end.

    Yields:
        Examples in order.
    """
    dropped = ErrorReport() if report is None else report
    examples = _TABLE_READERS[source.kind](
        source.place,
        name=name,
        split=source.split or "train",
        options=getattr(options, source.kind),
        on_error=on_error,
        report=dropped,
    )
    for example in examples:
        kept = cleaned(with_coarse(example, options.coarse), dropped) if options.coarse.rules else example
        if kept:
            yield kept
    if report is None:
        dropped.log(source.given)


def _merge_new(dataset: Dataset, split: str, infos: Sequence[SourceInfo], report: ErrorReport) -> None:
    # Splits of one collection share documents and queries; records dropped there count with the first split only.
    shared = any(info.name == dataset.name for info in infos)
    for part, part_report in dataset.reports().items():
        if not shared or part == f"qrels {split}":
            report.merge(part_report)


def _info(name: str, source: ParsedSource, dataset: Dataset | None, examples: int, report: ErrorReport) -> SourceInfo:
    from_hub = dataset is None and source.place.startswith("hub:")
    fingerprint: str | None = None
    if dataset is not None:
        fingerprint = dataset.fingerprint()
    elif not from_hub:
        fingerprint = rows_fingerprint(source.place)
    return SourceInfo(
        name=name,
        source=source.given,
        kind=source.kind,
        split=(source.split or "train") if dataset or from_hub else None,
        fingerprint=fingerprint,
        examples=examples,
        dropped=report.to_dict(),
    )


def _with_defaults(example: TrainingExample, options: PrepareOptions) -> TrainingExample:
    if options.task is None and options.instruction is None:
        return example
    return dataclasses.replace(
        example, task=example.task or options.task, instruction=example.instruction or options.instruction
    )


_Write: TypeAlias = Callable[[Mapping[str, Any]], bytes]


class ExampleWriter:
    """Streams examples to a prepared folder; made by `example_writer`."""

    def __init__(self, staging: Path, write_document: _Write, write_example: _Write) -> None:
        self._staging = staging
        self._write_document, self._write_example = write_document, write_example
        self._texts: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self.examples = self.positives = self.negatives = self.scored = self.coarse = 0
        self.trained: dict[str, set[str]] = {}
        # Filled by the caller: relevant documents of queries without an example.
        self.relevance = Relevance()

    def add(self, example: TrainingExample) -> None:
        """Write an example, and the new texts among its items.

        Args:
            example: An example that `cleaned` kept.

        Raises:
            DataError: An id is not of the form `SOURCE/ID`, or was written earlier with a different text.
        """
        for item in example.items:
            self._add_text(item, example)
        self._digest.update(self._write_example(example_record(example)))
        for item in (*example.positives, *example.coarse):
            source, original = source_and_id(item.id)
            self.trained.setdefault(source, set()).add(original)
        self.examples += 1
        self.positives += len(example.positives)
        self.negatives += len(example.negatives)
        self.coarse += bool(example.coarse)
        self.scored += sum(item.score is not None for item in (*example.positives, *example.negatives))

    def finish(
        self,
        sources: Iterable[SourceInfo],
        options: Mapping[str, Any],
        *,
        refined: Iterable[RefinedInfo] = (),
        leaks: Iterable[LeakInfo] = (),
    ) -> PreparedInfo:
        """Write the two JSON files and return the content of the first.

        Args:
            sources: The sources of the examples.
            options: The options they were made with.
            refined: The rounds of mining and filtering, in order.
            leaks: What evaluations know of the examples.

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
            coarse=self.coarse,
            sources=sources,
            options=dict(options),
            refined=refined,
            leaks=tuple(leaks),
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
                f"query {example.query.id!r}: document {item.id!r} appeared earlier with a different text; "
                f"an id must identify one text, so rename or remove one of the two",
                path=example.source,
            )


@contextmanager
def example_writer(folder: PathLike, *, overwrite: bool) -> Iterator[ExampleWriter]:
    """Open a prepared folder for writing; `finish` must be the last call in the block.

    Args:
        folder: The folder.
        overwrite: Replace an existing prepared folder.

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
    """Write a program's examples (mined, scored by a teacher) as a prepared folder.

    Args:
        examples: Examples whose ids have the form `SOURCE/ID`.
        folder: The folder, written atomically.
        source: Name of their maker, for the record.
        overwrite: Replace an existing prepared folder.

    Returns:
        A description of the folder, and of dropped records.

    Raises:
        DataError: An id is not of that form, or identifies two texts.
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
