"""One grammar for every collection: what a source's name stands for, and opening it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hyperseek._bounded import LONGEST_PATH, PathLike, existing_file, path_text
from hyperseek.data._dataset import Dataset, Source
from hyperseek.data._ir_datasets import IrDatasetsSource
from hyperseek.data._pydocs import SPLITS as PYDOCS_SPLITS
from hyperseek.data._pydocs import PydocsSource
from hyperseek.data._text_files import FolderSource
from hyperseek.data.hub import HubSource
from hyperseek.data.reading import FieldKeys, OnError, base_stem
from hyperseek.errors import DataError, InputError, shown

_NAMED = re.compile(r"([\w.-]+)=(.+)")


@dataclass(frozen=True, slots=True)
class ParsedSource:
    """A source as `prepare` understands it: `[NAME=][hypencoder:|columns:]PLACE[:SPLIT]`.

    Attributes:
        given: The whole text.
        name: The name asked for, or None.
        kind: How its content becomes examples.
        place: What to open.
        split: The split asked for, or None.
    """

    given: str
    name: str | None
    kind: Literal["qrels", "hypencoder", "columns"]
    place: str
    split: str | None


def parse_source(source: PathLike) -> ParsedSource:
    """Take a source apart.

    Args:
        source: A collection for `open_dataset`, or `hypencoder:` or `columns:` and a table; `:SPLIT` may follow
            collections and Hub tables, `NAME=` may stand before all.

    Returns:
        Its parts.
    """
    text = given = path_text(source)
    name = None
    if (named := _NAMED.fullmatch(text)) and not os.path.exists(text):
        name, text = named.groups()
    for kind in ("hypencoder", "columns"):
        if text.startswith(f"{kind}:"):
            place = text.removeprefix(f"{kind}:")
            place, split = _without_split(place) if place.startswith("hub:") else (place, None)
            return ParsedSource(given, name, kind, place, split)
    place, split = _without_split(text)
    return ParsedSource(given, name, "qrels", place, split)


def _without_split(text: str) -> tuple[str, str | None]:
    if is_pydocs(text):
        place, _, last = text.rpartition(":")
        return (place, last) if last in PYDOCS_SPLITS else (text, None)
    if text.startswith(("hub:", "ir_datasets:")):
        catalogue, _, rest = text.partition(":")
        identity, _, split = rest.partition(":")
        return f"{catalogue}:{identity}", split or None
    place, _, split = text.rpartition(":")
    # A split is no path; with one after the colon, as in C:/data, the colon belongs to the place.
    if not place or not split or set(split) & {"/", "\\"} or os.path.exists(text):
        return text, None
    return place, split


_CATALOGUES = ("ir_datasets:", "hub:", "pydocs")


def open_dataset(
    source: PathLike,
    *,
    name: str | None = None,
    queries: PathLike | None = None,
    qrels: PathLike | Mapping[str, PathLike] | None = None,
    id_key: str | None = None,
    text_key: str | None = None,
    title_key: str | None = None,
    on_error: OnError = "raise",
    check: bool | None = None,
) -> Dataset:
    """Open a collection; nothing is read before it is asked for.

    Args:
        source: A BEIR folder; a corpus file (`.jsonl`, `.tsv`, plain or `.gz`); `ir_datasets:ID`; `hub:NAME`;
            `pydocs`, the docstrings of the Python standard library; or `pydocs:PACKAGE,PACKAGE` to add those of
            installed packages.
        name: Its short name; None derives it from `source`.
        queries: The queries of a corpus file.
        qrels: The judgements of a corpus file: one file, whose split is called after it, or files by split.
        id_key: Key of the documents' ids; None finds it.
        text_key: Key of the documents' texts; None finds it.
        title_key: Key of the documents' titles; None finds it.
        on_error: Stop at a bad record, or leave it out and count it in `Dataset.report`.
        check: Whether a judgement of an unknown query or document is a bad record, which costs one pass over the
            corpus; None says yes except for `ir_datasets`, where published judgements often name such documents.

    Returns:
        The collection.

    Raises:
        DataError: There is no such folder or file, or it is of another kind.
        InputError: An argument does not go with this kind of source.
    """
    text = path_text(source)
    if name is not None and (not isinstance(name, str) or not name):
        raise InputError(f"a collection's name must be a text that is not empty, and not {shown(name)}")
    keys = FieldKeys(id_key, text_key, title_key)
    catalogued = text.startswith(_CATALOGUES[:2]) or is_pydocs(text)
    if (catalogued or os.path.isdir(text)) and (queries is not None or qrels is not None):
        raise InputError(f"{text} brings its own queries and judgements; queries= and qrels= go with a corpus file")
    opened: Source
    if is_pydocs(text):
        opened, derived = PydocsSource(_packages(text)), text.replace(":", "-").replace(",", "-")
    elif text.startswith("ir_datasets:"):
        opened = IrDatasetsSource(text.removeprefix("ir_datasets:"))
        derived, check = opened.name, bool(check)
    elif text.startswith("hub:"):
        derived = text.removeprefix("hub:").rstrip("/")
        opened = HubSource(derived, keys)
        derived = Path(derived).name if os.path.isdir(derived) else derived
    else:
        opened, derived = _open_files(Path(text), queries, qrels, keys)
    return Dataset(name or derived, opened, on_error=on_error, check=check is not False)


def is_pydocs(source: str) -> bool:
    """Whether a source is the embedded corpus."""
    return source == "pydocs" or source.startswith("pydocs:")


def _packages(source: str) -> tuple[str, ...]:
    return tuple(package for package in source.partition(":")[2].split(",") if package)


def _open_files(
    path: Path, queries: PathLike | None, qrels: PathLike | Mapping[str, PathLike] | None, keys: FieldKeys
) -> tuple[FolderSource, str]:
    if os.path.isdir(path):
        if (path / "prepared.json").exists():
            raise DataError("is a prepared training folder; read it with read_prepared", path=path)
        return FolderSource.from_folder(path, keys), path.resolve().name
    if not os.path.exists(path):
        raise DataError(
            "no such file or folder; give a BEIR folder, a corpus file, 'ir_datasets:ID', 'hub:NAME' or 'pydocs'",
            path=str(path)[:LONGEST_PATH],
        )
    if qrels is not None and queries is None:
        raise InputError("judgements need queries: give queries= too")
    if qrels is None:
        files: dict[str, Path] = {}
    elif isinstance(qrels, Mapping):
        files = {split: existing_file(file) for split, file in qrels.items()}
    else:
        files = {base_stem(qrels): existing_file(qrels)}
    return FolderSource(path, None if queries is None else existing_file(queries), files, keys), base_stem(path)
