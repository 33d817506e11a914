"""What became of each batch of examples, kept until all are done: a killed pass goes on where it was.

A batch is a file, there whole or not at all, so that two passes with one aim cannot spoil each other's work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hyperseek.data._example_records import example_from_record, example_record
from hyperseek.data._examples import TrainingExample
from hyperseek.data._lines import gzip_json_lines, json_lines
from hyperseek.data._report import ErrorReport, Faults


@dataclass(slots=True)
class RefinedBatch:
    """What became of some examples.

    Attributes:
        examples: Those that were kept.
        mined: Negatives that were added.
        short: Examples that got fewer than were asked for.
        report: What was dropped.
    """

    examples: list[TrainingExample] = field(default_factory=list)
    mined: int = 0
    short: int = 0
    report: ErrorReport = field(default_factory=ErrorReport)


def kept_batch(path: Path, make: Callable[[], RefinedBatch]) -> RefinedBatch:
    """Return a batch from disk, or make and write it.

    Args:
        path: Its file. The folder, made with the first batch, must stand for all that decides what becomes of one.
        make: Called where there is no such file.

    Returns:
        The batch.

    Raises:
        DataError: The file was damaged.
    """
    if path.is_file():
        return _read(path)
    batch = make()
    _write(path, batch)
    return batch


def _write(path: Path, batch: RefinedBatch) -> None:
    with gzip_json_lines(path) as write:
        write({"mined": batch.mined, "short": batch.short, "dropped": batch.report.to_dict()})
        for example in batch.examples:
            texts = {item.id: item.text for item in (*example.positives, *example.negatives)}
            write(example_record(example) | {"texts": texts})


def _read(path: Path) -> RefinedBatch:
    records = (record for _, record in json_lines(path, Faults()))
    about = next(records)
    return RefinedBatch(
        [example_from_record(record, record["texts"]) for record in records],
        about["mined"],
        about["short"],
        ErrorReport.from_dict(about["dropped"]),
    )
