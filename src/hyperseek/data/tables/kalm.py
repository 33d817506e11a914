"""Training examples in KaLM's form: `query`, `pos` and `neg`, in one file or many, of which some can be left out.

The published set (`KaLM-Embedding/KaLM-embedding-finetuning-data`) has a folder of Parquet files per data set; among
these are training parts of common evaluations.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from hyperseek._config import Config
from hyperseek.data.examples import ExampleItem, TrainingExample, content_id, instruction_before, qualified
from hyperseek.data.hub import hub_file, hub_paths
from hyperseek.data.reading import ErrorReport, OnError
from hyperseek.data.row_files import is_table, row_files
from hyperseek.data.tables.columns import BadRow, Table, examples_of_rows, table_name
from hyperseek.data.tables.reasonir import INSTRUCTION
from hyperseek.errors import DataError, InputError, shown
from hyperseek.types import Query


class KalmOptions(Config):
    """Which files and rows of KaLM's form become training examples.

    Attributes:
        exclude: Names of data sets to leave out: files whose path, from the folder or the data set's root on, contains
            one of them, in any case. A name that no path contains is an error.
        max_train_examples: Use only this many examples, drawn by seed from all that are left; None for all.
        seed: Seed of the draw.
    """

    exclude: tuple[str, ...] = ()
    max_train_examples: int | None = Field(default=None, ge=1)
    seed: int = 42


def examples_from_kalm(
    table: Table,
    *,
    name: str | None = None,
    split: str = "train",
    options: KalmOptions | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[TrainingExample]:
    """Stream one example per row, with all of its positives and negatives.

    The instruction of queries that have the form `Instruct: ... Query: ...` is part of their text, and of the metadata.

    Args:
        table: A `.jsonl`, `.parquet` or `.arrow` file, a folder of such files, `hub:NAME`, of which all such files are
            read, or rows in memory.
        name: Name of the source, the prefix of every id; None derives it.
        split: Only `train`, for `hub:`: the files have no others.
        options: What is left out; None for nothing.
        on_error: Stop at a bad row, or skip and count it.
        report: Counts them, files left out and drops; None makes one that is logged at the end.

    Yields:
        Examples in order. Ids are derived from the texts.

    Raises:
        DataError: A file is missing or damaged, a row lacks a column, or a name to leave out is in no path.
        InputError: The split is not `train`.
    """
    chosen = options or KalmOptions()
    counts = ErrorReport() if report is None else report
    if split != "train":
        raise InputError(f"tables of KaLM's form have the split 'train' alone, not {split!r}")
    if isinstance(table, str | os.PathLike):
        files: Iterator[Table] = _files(os.fspath(table), chosen.exclude, counts)
        name = name or table_name(table)
    elif chosen.exclude:
        raise InputError("rows in memory come from no files; leave out exclude")
    else:
        files = iter([table])
    examples = (
        example
        for file in files
        for example in examples_of_rows(file, _example, name=name, split=split, on_error=on_error, report=counts)
    )
    yield from examples if chosen.max_train_examples is None else _drawn(examples, chosen, counts)
    if report is None:
        counts.log("kalm")


def _files(place: str, exclude: Sequence[str], counts: ErrorReport) -> Iterator[Path]:
    """Yield the files that are not left out; those of the Hub are downloaded when they are reached."""
    on_hub = place.startswith("hub:") and not os.path.isdir(place.removeprefix("hub:"))
    if on_hub:
        name = place.removeprefix("hub:")
        paths = {path: path for path in hub_paths(name) if is_table(path)}
        if not paths:
            raise DataError("holds no tables", path=place)
    else:
        root = Path(place.removeprefix("hub:"))
        paths = {str(file.relative_to(root)) if root.is_dir() else file.name: str(file) for file in row_files(root)}
    names = [one.lower() for one in exclude]
    for one, lower in zip(exclude, names, strict=True):
        if not any(lower in path.lower() for path in paths):
            raise DataError(
                f"exclude has {one!r}, which is in no path; the paths are {shown(sorted(paths), 200)}", path=place
            )
    kept = []
    for path in paths:
        if any(one in path.lower() for one in names):
            counts.add("excluded_file", path)
        else:
            kept.append(path)
    if not kept:
        raise DataError(f"exclude leaves out all {len(paths)} files; name fewer", path=place)
    for path in kept:
        yield hub_file(name, path) if on_hub else Path(paths[path])


def _drawn(examples: Iterator[TrainingExample], options: KalmOptions, counts: ErrorReport) -> Iterator[TrainingExample]:
    """Yield a sample in order; each example is as likely as any other (reservoir sampling)."""
    most, draw = options.max_train_examples or 0, random.Random(options.seed)
    kept: list[tuple[int, TrainingExample]] = []
    position = -1
    for position, example in enumerate(examples):
        if position < most:
            kept.append((position, example))
        elif (place := draw.randrange(position + 1)) < most:
            kept[place] = (position, example)
    if position >= most:
        counts.add("over_max_train_examples", f"{most} of {position + 1} are kept", count=position + 1 - most)
    yield from (example for _, example in sorted(kept, key=lambda pair: pair[0]))


def _example(row: Mapping[str, Any], name: str, _: object) -> TrainingExample:
    query = row.get("query")
    if not isinstance(query, str):
        raise BadRow("missing_field", f"'query' must hold a text, not {shown(query)}")
    instruction = instruction_before(query)
    return TrainingExample(
        Query(qualified(name, content_id(query)), query, {INSTRUCTION: instruction} if instruction else {}),
        tuple(_items(row, "pos", name)),
        tuple(_items(row, "neg", name)),
        name,
    )


def _items(row: Mapping[str, Any], key: str, name: str) -> Iterator[ExampleItem]:
    texts = row.get(key)
    if texts is None and key == "neg":
        return
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRow("bad_field", f"{key!r} must hold a list of texts, not {shown(texts)}")
    yield from (ExampleItem(qualified(name, content_id(text)), text) for text in texts)
