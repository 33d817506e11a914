"""BRIGHT (arXiv 2407.12883): twelve sets of queries that take reasoning to answer, each with documents of its own.

A query's `excluded_ids` name documents that its ranking must not hold, such as the post that the query itself is from.
They become metadata of the query, and evaluation leaves them out of rankings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyperseek._documents import id_of
from hyperseek._relevance import EXCLUDED_IDS
from hyperseek.data._dataset import Dataset
from hyperseek.data._qrels_and_runs import Judgement
from hyperseek.data.hub import hub_rows
from hyperseek.data.open import SourceKind
from hyperseek.data.reading import Faults, FieldKeys, Row, base_stem, documents_from_rows, queries_from_rows
from hyperseek.data.tables import file_rows, row_files
from hyperseek.errors import DataError, InputError, UnknownNameError, shown
from hyperseek.types import Document, Query

HUB_NAME = "xlangai/BRIGHT"
BRIGHT_GROUPS = {
    "StackExchange": (
        *("biology", "earth_science", "economics", "psychology", "robotics", "stackoverflow", "sustainable_living"),
    ),
    "code": ("leetcode", "pony"),
    "theorems": ("aops", "theoremqa_questions", "theoremqa_theorems"),
}
"""The twelve sets, in the groups over which means are reported."""
SETS = tuple(subset for group in BRIGHT_GROUPS.values() for subset in group)
_NO_ID = "N/A"  # what lists without an id hold
_GOLD = ("gold_ids", "gold_ids_long")
_PART_OF_SEVERAL = re.compile(r"-\d{5}-of-\d{5}")
_GRAMMAR = "bright:[PLACE#]SET[+long][+VARIANT]"


class BrightSource:
    """One set, with the split `test`.

    Args:
        place: A folder with a folder for each configuration (`documents`, `examples`, ...), or `organisation/name` on
            the Hub.
        subset: The set, a file in each of these folders and a split on the Hub.
        long: Whether documents are whole pages instead of passages.
        variant: Configuration of the queries; None for the original ones.
    """

    splits = ("test",)

    def __init__(self, place: str, subset: str, *, long: bool, variant: str | None) -> None:
        self._place = place
        self._subset = subset
        self._documents = "long_documents" if long else "documents"
        self._queries = variant or "examples"
        self._gold = _GOLD[long]

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents."""
        return documents_from_rows(
            self._rows(self._documents, faults), self._path(self._documents), FieldKeys("id", "content"), faults
        )

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries; ids to leave out of their rankings are metadata, and gold ids are not."""
        path = self._path(self._queries)

        def rows() -> Iterator[Row]:
            for line, row in self._rows(self._queries, faults):
                kept: dict[str, Any] = {key: value for key, value in row.items() if key not in (*_GOLD, EXCLUDED_IDS)}
                excluded = _ids(row.get(EXCLUDED_IDS, []))
                if excluded is None:
                    message = f"{EXCLUDED_IDS} must be a list of ids, not {shown(row[EXCLUDED_IDS])}"
                    faults.found("bad_field", message, path=path, line=line)
                    continue
                if excluded:
                    kept[EXCLUDED_IDS] = excluded
                yield line, kept

        return queries_from_rows(rows(), path, FieldKeys("id", "query"), faults)

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the gold documents of each query, all of grade 1; a query without any is not judged."""
        path = self._path(self._queries)
        for line, row in self._rows(self._queries, faults):
            query_id, gold = id_of(row.get("id")), _ids(row.get(self._gold))
            if query_id is None or gold is None:
                message = f"no id with a list of {self._gold}: {shown(row)}"
                faults.found("bad_field", message, path=path, line=line)
            else:
                yield from (Judgement(query_id, document_id, 1, path, line) for document_id in gold)

    def _rows(self, configuration: str, faults: Faults) -> Iterator[Row]:
        if not Path(self._place).is_dir():
            yield from hub_rows(f"{self._place}#{configuration}", self._subset)
            return
        folder = Path(self._place, configuration)
        if not folder.is_dir():
            found = ", ".join(sorted(child.name for child in Path(self._place).iterdir() if child.is_dir()))
            raise DataError(f"has no folder {configuration!r}; it has {found or 'none'}", path=self._place)
        subsets: dict[str, list[Path]] = {}
        for file in row_files(folder):
            name = file.relative_to(folder).parts[0]  # a folder of files, or a file
            name = name if (folder / name).is_dir() else _PART_OF_SEVERAL.sub("", base_stem(name))
            subsets.setdefault(name, []).append(file)
        if self._subset not in subsets:
            raise UnknownNameError(f"set of {folder}", self._subset, subsets)
        for file in subsets[self._subset]:
            yield from file_rows(file, faults)

    def _path(self, configuration: str) -> str:
        if Path(self._place).is_dir():
            return str(Path(self._place, configuration, self._subset))
        return f"hub:{self._place}#{configuration} {self._subset}"


def open_bright(text: str) -> Dataset:
    """Open one set of BRIGHT.

    Args:
        text: `[PLACE#]SET[+long][+VARIANT]`: a folder or a name on the Hub, if it is not `xlangai/BRIGHT`; the set;
            whether documents are whole pages; and the configuration of the queries, as in `biology+long+gpt4_reason`.

    Returns:
        The collection, named after the set and not after the variant, whose documents are the same.

    Raises:
        UnknownNameError: BRIGHT on the Hub has no such set.
        InputError: The text is of another form.
    """
    place, _, rest = text.rpartition("#")
    subset, *more = rest.split("+")
    long = "long" in more
    variants = [part for part in more if part != "long"]
    if not subset or len(variants) > 1 or not all(re.fullmatch(r"[\w-][\w.-]*", part) for part in (subset, *variants)):
        raise InputError(f"bright:{text} is not of the form {_GRAMMAR}; the sets are {', '.join(SETS)}")
    if not place and subset not in SETS:
        raise UnknownNameError("set of BRIGHT", subset, SETS)
    source = BrightSource(place or HUB_NAME, subset, long=long, variant=next(iter(variants), None))
    return Dataset(f"bright-{subset}{'-long' if long else ''}", source)


BRIGHT = SourceKind(open_bright)


def _ids(value: object) -> list[str] | None:
    """Return the ids of a list, each once, or None for what is not a list of ids."""
    if not isinstance(value, list | tuple):
        return None
    ids = [id_of(item) for item in value]
    if None in ids:
        return None
    return [identity for identity in dict.fromkeys(ids) if identity is not None and identity != _NO_ID]
