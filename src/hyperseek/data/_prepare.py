"""`hyperseek prepare`: several sources, one prepared folder."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from hyperseek._bounded import PathLike, path_text
from hyperseek._fingerprint import fingerprint_file
from hyperseek._folders import check_replaceable, scratch_folder
from hyperseek._long_work import progress
from hyperseek.data._dataset import Dataset
from hyperseek.data._example_sources import (
    PrepareOptions,
    examples_from_columns,
    examples_from_hypencoder,
    examples_from_qrels,
)
from hyperseek.data._examples import TrainingExample
from hyperseek.data._prepared import INFO, PREPARED_FILES, PreparedInfo, SourceInfo
from hyperseek.data._rows import table_name
from hyperseek.data.open import ParsedSource, open_dataset, parse_source
from hyperseek.data.report import ErrorReport, OnError
from hyperseek.data.writing import example_writer
from hyperseek.errors import DataError, InputError, UnknownNameError, shown
from hyperseek.mining._corpora import Mine
from hyperseek.mining._filters import Teacher
from hyperseek.mining._options import RefineOptions
from hyperseek.mining._refine import check_refining, refine
from hyperseek.types import Qrels


def prepare(
    folder: PathLike,
    sources: Sequence[PathLike],
    *,
    options: PrepareOptions | None = None,
    mine: Mine | Sequence[Mine] | None = None,
    refining: RefineOptions | None = None,
    teacher: Teacher | None = None,
    judged: Mapping[str, Qrels] | None = None,
    device: str | None = None,
    on_error: OnError = "raise",
    overwrite: bool = False,
) -> PreparedInfo:
    """Write the training examples of all sources into one folder.

    Args:
        folder: The folder; it is there whole or not at all.
        sources: Each `[NAME=]PLACE[:SPLIT]` with a collection for `open_dataset` (the split is `train` if not said),
            `[NAME=]hypencoder:TABLE`, or `[NAME=]columns:TABLE`; a table is a `.jsonl` file or `hub:NAME[:SPLIT]`.
            Splits of one collection share its name, so that each document is stored once. Or one folder that is
            prepared already, to be mined or filtered.
        options: How examples are made; None for the defaults.
        mine: Where to mine hard negatives; see `refine`.
        refining: How to mine and filter, as the `options` of `refine`.
        teacher: Filters negatives; see `refine`.
        judged: Further judgements by name of the collection; see `refine`.
        device: Where to put models that are given by name; None takes a GPU if there is one.
        on_error: Stop at a bad record, or leave it out and count it.
        overwrite: Replace an older prepared folder.

    Returns:
        What was written, and what was dropped and why.

    Raises:
        DataError: A source has a bad record, or one id names two texts.
        InputError: No source, a source twice, two sources of one name, no example left, or the folder exists and may
            not be replaced.
    """
    if isinstance(sources, str | bytes | os.PathLike) or not isinstance(sources, Sequence):
        raise InputError(f"sources are several, as in ['pydocs:train'], and not {shown(sources)}")
    sources = [path_text(source) for source in sources]
    further = _Further(mine=mine, options=refining, teacher=teacher, judged=judged)
    done = [source for source in sources if os.path.isfile(Path(source) / INFO)]
    if not any(value is not None for value in further.values()):
        if done:
            raise InputError(f"{done[0]} is prepared already; mine or filter it: mine= or teacher= (--mine, --teacher)")
        return _prepare(folder, sources, options or PrepareOptions(), on_error=on_error, overwrite=overwrite)
    target = Path(folder)
    check_replaceable(target, overwrite, PREPARED_FILES)
    if done:
        if len(sources) > 1 or options is not None:
            raise InputError(f"{done[0]} is prepared already; give it alone, without options for other sources")
        return refine(done[0], folder, device=device, on_error=on_error, overwrite=overwrite, **further)
    check_refining(refining, mine, teacher)
    with scratch_folder(target) as scratch:
        plain = scratch / "prepared"
        _prepare(plain, sources, options or PrepareOptions(), on_error=on_error, overwrite=False)
        return refine(plain, folder, device=device, on_error=on_error, overwrite=overwrite, **further)


class _Further(TypedDict):
    mine: Mine | Sequence[Mine] | None
    options: RefineOptions | None
    teacher: Teacher | None
    judged: Mapping[str, Qrels] | None


def _prepare(
    folder: PathLike, sources: Sequence[PathLike], options: PrepareOptions, *, on_error: OnError, overwrite: bool
) -> PreparedInfo:
    opened = _open_all([parse_source(source) for source in sources], on_error)
    infos: list[SourceInfo] = []
    with example_writer(folder, overwrite=overwrite) as writer, progress("preparing", unit="examples") as bar:
        for name, source, dataset in opened:
            bar.describe(f"preparing {source.given}")
            report = ErrorReport()
            before = writer.examples
            if dataset is None:
                examples = _from_table(name, source, options, on_error, report)
            else:
                examples = examples_from_qrels(
                    dataset,
                    source.split or "train",
                    options=options.qrels,
                    report=report,
                    relevance=writer.relevance,
                )
            for example in examples:
                writer.add(_with_defaults(example, options))
                bar.advance()
            if dataset is not None:
                _merge_new(dataset, source.split or "train", infos, report)
            report.log(source.given, level=logging.INFO)
            infos.append(_info(name, source, dataset, writer.examples - before, report))
        return writer.finish(infos, options.model_dump(mode="json", exclude_defaults=True))


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
            f"has no judgements to learn from; rows of queries and positives are read by 'columns:{source.place}', "
            f"Hypencoder's lines by 'hypencoder:{source.place}'",
            path=source.place,
        )
    split = source.split or "train"
    if split not in dataset.splits:
        raise UnknownNameError(f"split of {dataset.name}", split, dataset.splits)


def _from_table(
    name: str, source: ParsedSource, options: PrepareOptions, on_error: OnError, report: ErrorReport
) -> Iterator[TrainingExample]:
    split = source.split or "train"
    if source.kind == "hypencoder":
        return examples_from_hypencoder(
            source.place, name=name, split=split, options=options.hypencoder, on_error=on_error, report=report
        )
    return examples_from_columns(
        source.place, name=name, split=split, options=options.columns, on_error=on_error, report=report
    )


def _merge_new(dataset: Dataset, split: str, infos: Sequence[SourceInfo], report: ErrorReport) -> None:
    # Splits of one collection share its documents and queries; what these cost is counted with the first split.
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
        fingerprint = fingerprint_file(source.place)
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
