"""Training examples whose texts have instructions, in the forms of ReasonIR and of KaLM.

ReasonIR names documents by the ids of another table. A row has a `query`, a text or `[instruction, text]`; `pos`, a
list of `[instruction, document]`; and `neg`, the same. In the set HQ (`reasonir/reasonir-data`, arXiv 2504.20595)
positives are ids of BRIGHT's documents; in VL, texts.

KaLM has `query`, `pos` and `neg`, in one file or many, of which some can be left out. The published set
(`KaLM-Embedding/KaLM-embedding-finetuning-data`) has a folder of Parquet files per data set; among these are training
parts of common evaluations.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hyperseek._config import Config
from hyperseek._documents import ID_KEYS, TEXT_KEYS, find_key, id_of
from hyperseek.data.examples import ExampleItem, TrainingExample, content_id, instruction_before, qualified
from hyperseek.data.hub import hub_file, hub_paths, hub_rows
from hyperseek.data.reading import ErrorReport, Faults, OnError, Row
from hyperseek.data.tables import file_rows, is_table, row_files
from hyperseek.data.tables.columns import BadRow, Table, examples_of_rows, optional_text, table_name, table_rows
from hyperseek.errors import DataError, InputError, shown
from hyperseek.types import Query

INSTRUCTION = "instruction"
"""Key of a query's metadata under which its instruction is, with which its text begins."""

_HINT = "name the table of documents, as in reasonir.documents=hub:xlangai/BRIGHT#documents"


class ReasonIROptions(Config):
    """How rows of ReasonIR's form become training examples.

    Attributes:
        documents: Table of the documents that ids name: a `.jsonl`, `.parquet` or `.arrow` file, a folder of such
            files, or `hub:NAME#CONFIGURATION`, of which all splits are read. None where rows hold texts alone.
        positives: What positives are: `ids`, of which unknown ones are left out; `texts`; or `either`, as negatives
            always are: ids where the table knows them, and texts otherwise. None for `ids` where `documents` is given,
            else `texts`.
    """

    documents: str | None = None
    positives: Literal["ids", "texts", "either"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> ReasonIROptions:
        if self.documents is None and self.positives in ("ids", "either"):
            raise ValueError(f"positives {self.positives!r} needs documents, the table that has their texts")
        return self


def examples_from_reasonir(
    table: Table,
    *,
    name: str | None = None,
    split: str = "train",
    options: ReasonIROptions | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[TrainingExample]:
    """Stream one example for every row, with all its positives and negatives.

    Queries of several parts are joined by one space; so are the instruction and the text of a document, where there is
    an instruction. Items that are no pairs, and ids that the table of documents does not know, are left out and
    counted.

    Args:
        table: A `.jsonl`, `.parquet` or `.arrow` file, a folder of such files, `hub:NAME#CONFIGURATION`, or rows in
            memory. It is read twice where there is a table of documents.
        name: Name of the source, the first part of every id; None derives it.
        split: The split, for `hub:`.
        options: Where documents are, and what positives are; None for the defaults.
        on_error: Stop at a bad row, or leave it out and count it.
        report: Where to count, drops included; None makes one that is logged at the end.

    Yields:
        Examples in order. Documents that were named by an id keep it; others have one made of their content.

    Raises:
        DataError: A table is missing or damaged, a row has no query, or the table of documents knows no positive.
    """
    chosen = options or ReasonIROptions()
    counts = ErrorReport() if report is None else report
    texts: dict[str, str] = {}
    named: set[int] = set()
    if chosen.documents is not None:
        if not isinstance(table, str) and isinstance(table, Iterator):
            raise InputError("rows that name documents by ids are read twice; give a list of them, or a file")
        named = _named(table, split)
        texts = _texts(chosen.documents, named, counts)
    meaning = chosen.positives or ("texts" if chosen.documents is None else "ids")
    known = 0

    def example(row: Mapping[str, Any], name: str, _: object) -> TrainingExample:
        nonlocal known
        made = _reasonir_example(row, name, texts, meaning, counts)
        known += len(made.positives)
        return made

    yield from examples_of_rows(table, example, name=name, split=split, on_error=on_error, report=counts)
    if named and not known:
        raise DataError(
            f"{chosen.documents} has none of the documents that its positives name; give another table of documents, "
            f"or reasonir.positives=texts where positives are texts",
            path=table if isinstance(table, str) else "rows",
        )
    if report is None:
        counts.log("reasonir")


def joined(value: object) -> str | None:
    """Return a text, or the parts of a list with one space between them; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(part, str) for part in value):
        return " ".join(part for part in value if part)
    return None


def _reasonir_example(
    row: Mapping[str, Any], name: str, texts: Mapping[str, str], meaning: str, counts: ErrorReport
) -> TrainingExample:
    given = row.get("query")
    query = joined(given)
    if query is None:
        raise BadRow("missing_field", f"'query' must hold a text or a list of texts, not {shown(given)}")
    place = f"query {shown(query, 80)}"
    instruction = given[0] if isinstance(given, list | tuple) and len(given) > 1 else ""
    return TrainingExample(
        Query(qualified(name, content_id(query)), query, {INSTRUCTION: instruction} if instruction else {}),
        tuple(_reasonir_items(row, "pos", name, texts, meaning, f"{place}, pos", counts)),
        tuple(_reasonir_items(row, "neg", name, texts, "either", f"{place}, neg", counts)),
        name,
        optional_text(row.get("task")),
    )


def _reasonir_items(
    row: Mapping[str, Any],
    key: str,
    name: str,
    texts: Mapping[str, str],
    meaning: str,
    place: str,
    counts: ErrorReport,
) -> Iterator[ExampleItem]:
    for pair in _list(row.get(key)):
        parts = _pair(pair)
        if parts is None:
            counts.add("not_a_pair", f"{place}: {shown(pair)} is not [instruction, document]")
            continue
        instruction, value = parts
        text, identity = value, None
        if meaning != "texts" and value in texts:
            text, identity = texts[value], value
            if not text:
                counts.add("document_without_text", f"{place}: the document {value!r} is empty")
                continue
        elif meaning == "ids" or _is_like_an_id(value):
            counts.add("unknown_document", f"{place}: no text of {shown(value)}" + ("" if texts else f"; {_HINT}"))
            continue
        whole = f"{instruction} {text}" if instruction else text
        # One id must name one text, and an instruction makes another.
        if identity is None or instruction:
            identity = content_id(whole)
        yield ExampleItem(qualified(name, identity), whole)


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise BadRow("bad_field", f"'pos' and 'neg' must hold lists of [instruction, document], not {shown(value)}")
    return list(value)


def _pair(value: object) -> tuple[str, str] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    instruction, document = value
    found = document if isinstance(document, str) else id_of(document)
    return None if found is None else ("" if instruction is None else str(instruction), found)


def _is_like_an_id(text: str) -> bool:
    """Return whether a text is the name of a file, as BRIGHT's ids are; a positive of VL may be one word."""
    return text.endswith((".txt", ".md", ".html")) and not any(map(str.isspace, text))


def _named(table: Table, split: str) -> set[int]:
    """Return hashes of whatever may be an id in a table: tables of documents are larger than what is needed of them."""
    ignored = Faults("skip", ErrorReport())
    return {
        hash(pair[1])
        for _, row in table_rows(table, split, ignored)
        for key in ("pos", "neg")
        for pair in (_pair(one) for one in _if_list(row.get(key)))
        if pair is not None
    }


def _if_list(value: object) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else ()


def _texts(place: str, wanted: set[int], counts: ErrorReport) -> dict[str, str]:
    """Return the texts that are wanted of a table of documents, by id; of an id with several texts, the last."""
    texts: dict[str, str] = {}
    keys: tuple[str, str] | None = None
    rows: Iterator[Row] = (
        hub_rows(place.removeprefix("hub:"), None)
        if place.startswith("hub:")
        else file_rows(place, Faults("raise", counts))
    )
    for _, row in rows:
        if keys is None:
            found = find_key(ID_KEYS, row), find_key(TEXT_KEYS, row)
            if found[0] is None or found[1] is None:
                raise DataError(f"needs the columns of an id and a text, has {shown(sorted(row), 200)}", path=place)
            keys = found[0], found[1]
        identity, text = id_of(row.get(keys[0])), row.get(keys[1])
        if identity is None or hash(identity) not in wanted:
            continue
        text = text if isinstance(text, str) and text.strip() else ""
        if texts.get(identity, text) != text:
            counts.add("document_twice", f"{place}: {identity!r} has several texts, of which the last is taken")
        texts[identity] = text
    return texts


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
        for example in examples_of_rows(file, _kalm_example, name=name, split=split, on_error=on_error, report=counts)
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


def _kalm_example(row: Mapping[str, Any], name: str, _: object) -> TrainingExample:
    query = row.get("query")
    if not isinstance(query, str):
        raise BadRow("missing_field", f"'query' must hold a text, not {shown(query)}")
    instruction = instruction_before(query)
    return TrainingExample(
        Query(qualified(name, content_id(query)), query, {INSTRUCTION: instruction} if instruction else {}),
        tuple(_kalm_items(row, "pos", name)),
        tuple(_kalm_items(row, "neg", name)),
        name,
    )


def _kalm_items(row: Mapping[str, Any], key: str, name: str) -> Iterator[ExampleItem]:
    texts = row.get(key)
    if texts is None and key == "neg":
        return
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRow("bad_field", f"{key!r} must hold a list of texts, not {shown(texts)}")
    yield from (ExampleItem(qualified(name, content_id(text)), text) for text in texts)
