"""Collections in files: BEIR folders, and corpora and queries as JSON lines or tab-separated.

Tab-separated files come with or without a header, and a header read as a record is a spurious document. So a first
line is a header if it has the usual names, or those that were asked for; it is data if it does not look like a header;
anything in between is an error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hyperseek._bounded import PathLike, existing_file
from hyperseek._documents import ID_KEYS, TEXT_KEYS, TITLE_KEYS, find_key, repeated
from hyperseek._folders import staged_folder
from hyperseek._long_work import progress
from hyperseek.data._dataset import Dataset
from hyperseek.data._qrels_and_runs import Judgement, read_judgements, write_qrels
from hyperseek.data.files.folder import FilesSource
from hyperseek.data.files.formats import row_documents, separated_rows
from hyperseek.data.files.readers import reader_of
from hyperseek.data.open import SourceKind
from hyperseek.data.reading import (
    ErrorReport,
    Faults,
    FieldKeys,
    OnError,
    Row,
    base_stem,
    base_suffix,
    documents_from_rows,
    gzip_json_lines,
    json_lines,
    numbered_lines,
    queries_from_rows,
)
from hyperseek.data.tables import file_rows
from hyperseek.errors import DataError, InputError, shown
from hyperseek.types import Document, Query

_QRELS_SUFFIXES = (".tsv", ".txt", ".qrels", ".trec", ".json")
TEXT_SUFFIXES = (".jsonl", ".tsv")
_ROW_SUFFIXES = (".csv", ".parquet", ".arrow")  # of tables whose columns may be any

# A file of such a kind that is called `corpus` or `queries` is not part of a BEIR folder.
_PROSE = (".txt", ".md", ".markdown", ".rst", ".text", ".org", ".adoc", ".html", ".pdf", ".docx", ".py")

# For a table's first line, which may name the columns.
_COMPARED = 20  # lines after the first to look at
_LONGEST_NAME = 40  # characters
_MOST_WORDS = 3
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Words in column names, apart from the usual names.
_ID_WORDS = frozenset(
    re.findall(
        r"\w+",
        """id ids identifier key no nr num number name label uid uuid code index docno docid doc document qid pid query
        topic entry item row""",
    )
)
_TEXT_WORDS = frozenset(
    re.findall(
        r"\w+",
        """text texts content contents fulltext body passage passages document query queries question title headline
        abstract description sentence answer paragraph summary definition value string utterance comment review""",
    )
)
_REMEDY = (
    "add a first line 'id<TAB>text' if it is a record; if it names the columns, rename them to these, or give them by "
    "id_key= and text_key= (--id-key, --text-key), which also take numbers, as 1 and 2, if no line names them"
)

# Fields and files of a BEIR folder.
_FIELDS = ("_id", "title", "text")
_OWNED = ("corpus.jsonl.gz", "queries.jsonl.gz", "qrels")


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Files of one collection.

    Attributes:
        corpus: The documents.
        queries_file: The queries, or None.
        qrels: Judgements by split.
        keys: Keys of the documents' fields.
    """

    corpus: Path
    queries_file: Path | None = None
    qrels: Mapping[str, Path] = field(default_factory=dict)
    keys: FieldKeys = field(default_factory=FieldKeys)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the judged splits."""
        return tuple(self.qrels)

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents."""
        return read_document_rows(self.corpus, self.keys, faults)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries."""
        if self.queries_file is None:
            return iter(())
        return read_query_rows(self.queries_file, FieldKeys(), faults)

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements of a split."""
        return read_judgements(self.qrels[split], faults)

    @classmethod
    def from_folder(cls, folder: Path, keys: FieldKeys) -> FolderSource:
        """Find the files of a BEIR folder.

        Args:
            folder: Holds `corpus.jsonl`, and may hold `queries.jsonl` and `qrels/SPLIT.tsv`; each may be `.gz`, the
                texts may be `.tsv`.
            keys: Keys of the documents' fields.

        Returns:
            The source.

        Raises:
            DataError: There is no corpus, a file exists in two forms, or there are judgements without queries.
        """
        corpus = _only(folder, "corpus")
        if corpus is None:
            raise DataError(
                f"has no corpus{'|'.join(TEXT_SUFFIXES)}[.gz] but {sorted(p.name for p in folder.iterdir())}; "
                f"give a BEIR folder, the corpus file itself, or a folder of files of known kinds",
                path=folder,
            )
        queries = _only(folder, "queries")
        qrels = _find_qrels(folder / "qrels")
        if qrels and queries is None:
            raise DataError("holds judgements but no queries.jsonl", path=folder)
        return cls(corpus, queries, qrels, keys)


def open_folder(place: str, keys: FieldKeys) -> Dataset:
    """Open a BEIR folder, or a folder of files.

    Args:
        place: The folder.
        keys: Keys of the documents' fields.

    Returns:
        The collection.

    Raises:
        DataError: It is prepared training data, or has neither a corpus nor files of a known kind.
        InputError: There are keys, but files have no fields.
    """
    folder = Path(place)
    if (folder / "prepared.json").exists():
        raise DataError("is a prepared training folder; read it with read_prepared", path=folder)
    if not _is_beir(folder) and FilesSource.reads(folder):
        if keys.named:
            raise InputError(f"{place} is a folder of files; id_key, text_key and title_key apply to other sources")
        return Dataset(folder.resolve().name, FilesSource(folder))
    return Dataset(folder.resolve().name, FolderSource.from_folder(folder, keys))


def open_files(
    place: str, keys: FieldKeys, queries: PathLike | None, qrels: PathLike | Mapping[str, PathLike] | None
) -> Dataset:
    """Open a corpus file, or any other file of a known kind.

    Args:
        place: The file.
        keys: Keys of the documents' fields.
        queries: The queries, or None.
        qrels: The judgements, one file or files by split, or None.

    Returns:
        The collection.

    Raises:
        InputError: There are judgements, but no queries.
    """
    if qrels is not None and queries is None:
        raise InputError("judgements need queries: give queries= too")
    files: dict[str, Path] = {}
    if isinstance(qrels, Mapping):
        files = {split: existing_file(file) for split, file in qrels.items()}
    elif qrels is not None:
        files = {base_stem(qrels): existing_file(qrels)}
    asked = None if queries is None else existing_file(queries)
    suffix = base_suffix(place)
    if suffix not in (*TEXT_SUFFIXES, *_ROW_SUFFIXES) and not (queries or keys.named) and reader_of(Path(place)):
        return Dataset(base_stem(place), FilesSource(existing_file(place)))
    return Dataset(base_stem(place), FolderSource(Path(place), asked, files, keys))


FOLDER = SourceKind(open_folder, fields=True)
FILES = SourceKind(open_files, fields=True, beside=True)


def _is_beir(folder: Path) -> bool:
    """Return whether a folder has any part of a BEIR folder, in any format, and so is meant as one."""
    return any(
        name.name == "qrels" or (base_stem(name) in ("corpus", "queries") and base_suffix(name) not in _PROSE)
        for name in folder.iterdir()
    )


def _only(folder: Path, stem: str) -> Path | None:
    names = [stem + suffix + packed for suffix in TEXT_SUFFIXES for packed in ("", ".gz")]
    found = [folder / name for name in names if (folder / name).exists()]
    if len(found) > 1:
        raise DataError(f"holds both {found[0].name} and {found[1].name}; remove one", path=folder)
    return existing_file(found[0]) if found else None


def _find_qrels(folder: Path) -> dict[str, Path]:
    qrels: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if base_suffix(path) not in _QRELS_SUFFIXES or path.name.startswith("."):
            continue
        split = base_stem(path)
        if split in qrels:
            raise DataError(f"holds both {qrels[split].name} and {path.name}; remove one", path=folder)
        qrels[split] = path
    return qrels


def read_corpus(
    path: PathLike,
    *,
    id_key: str | None = None,
    text_key: str | None = None,
    title_key: str | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[Document]:
    """Stream the documents of a `.jsonl` or `.tsv` file, plain or `.gz`.

    A TSV file has two columns, id and text, or a first line that names its columns. An unclear case is an
    error; the keys then decide, as names from the first line, or as numbers from 1 if no line names the columns.

    Args:
        path: The file.
        id_key: Key or column of the id; None finds the usual ones (`_id`, `id`, `doc_id`, ...).
        text_key: Key or column of the text; None finds the usual ones (`text`, `content`, `body`, ...).
        title_key: Key or column of the title; None finds `title` or `page_title`. Other keys become metadata.
        on_error: Stop at a bad record, or skip and count it.
        report: Counts them; None makes one that is logged at the end.

    Returns:
        The documents in order. Memory holds 8-byte hashes of the ids, never the texts.

    Raises:
        DataError: The file is missing or of another kind, or (while iterating) a record is bad: not JSON, a field
            missing or of the wrong type, an id that appears twice; or it has no document. The message names
            file and line.
    """
    return read_document_rows(existing_file(path), FieldKeys(id_key, text_key, title_key), Faults(on_error, report))


def read_queries(
    path: PathLike,
    *,
    id_key: str | None = None,
    text_key: str | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[Query]:
    """Stream the queries of a `.jsonl` or `.tsv` file, plain or `.gz`.

    Args:
        path: The file.
        id_key: Key or column of the id; None finds the usual ones.
        text_key: Key or column of the text; None finds the usual ones. Other keys become metadata.
        on_error: Stop at a bad record, or skip and count it.
        report: Counts them; None makes one that is logged at the end.

    Returns:
        The queries in order.

    Raises:
        DataError: As in `read_corpus`; an empty query is bad too.
    """
    return read_query_rows(existing_file(path), FieldKeys(id_key, text_key), Faults(on_error, report))


def read_id_list(path: PathLike) -> list[str]:
    """Read a file of ids, one per line, unchanged, including blanks at either end. Empty lines are skipped.

    Args:
        path: The file.

    Returns:
        The ids, in order.

    Raises:
        DataError: The file is missing, not UTF-8, or has no ids.
    """
    found = existing_file(path)
    ids = [line for _, line in numbered_lines(found, Faults(), blank=True)]
    if not ids:
        raise DataError("has no ids", path=found)
    return ids


def read_document_rows(path: Path, keys: FieldKeys, faults: Faults) -> Iterator[Document]:
    """Stream the documents of a file; bad ones go to `faults`."""
    rows = _rows(path, keys, faults)
    if base_suffix(path) in _ROW_SUFFIXES and not keys.named:
        return row_documents(rows)
    return documents_from_rows(rows, path, keys, faults)


def read_query_rows(path: Path, keys: FieldKeys, faults: Faults) -> Iterator[Query]:
    """Stream the queries of a file; bad ones go to `faults`."""
    return queries_from_rows(_rows(path, keys, faults), path, keys, faults)


def _rows(path: Path, keys: FieldKeys, faults: Faults) -> Iterator[Row]:
    if base_suffix(path) in _ROW_SUFFIXES:
        return separated_rows(path, faults) if base_suffix(path) == ".csv" else file_rows(path, faults)
    if base_suffix(path) not in TEXT_SUFFIXES:
        raise DataError(f"is not a text file: those are {' or '.join(TEXT_SUFFIXES)}, plain or .gz", path=path)
    return json_lines(path, faults) if base_suffix(path) == ".jsonl" else tab_separated(path, keys.named, faults)


def tab_separated(path: Path, named: Sequence[str], faults: Faults) -> Iterator[Row]:
    """Yield the rows of a tab-separated file with their line numbers.

    Args:
        path: The file.
        named: Requested columns: names from the first line, or numbers from 1 if no line names
            them. Empty to find them.
        faults: Takes lines with too many or too few columns.

    Yields:
        Line number, and the cells by column name; `id` and `text` if no line names them.

    Raises:
        DataError: It is unclear whether the first line is a header, or which column is the id or the text.
    """
    lines = ((number, line.split("\t")) for number, line in numbered_lines(path, faults))
    first = next(lines, None)
    if first is None:
        return
    following = list(islice(lines, _COMPARED))
    columns = _header(first[1], [cells for _, cells in following], named, path, first[0])
    rows = chain(following, lines)
    if columns is None:
        columns = _numbered(first[1], [cells for _, cells in following], named, path, first[0])
        rows = chain([first], rows)
    for number, cells in rows:
        if len(cells) == len(columns):
            yield number, dict(zip(columns, cells, strict=True))
        else:
            message = f"has {len(cells)} columns, needs {len(columns)}: {shown(columns)}"
            faults.found("bad_columns", message, path=path, line=number)


def _header(
    cells: list[str], following: list[list[str]], named: Sequence[str], path: Path, line: int
) -> list[str] | None:
    """Return the names of the columns, or None if the first line is data."""
    names = [cell.strip() for cell in cells]
    if _are_numbers(named):
        return None
    if named:
        missing = next((name for name in named if name not in names), None)
        if missing is not None:
            raise DataError(
                f"has no column {missing!r}; its first line has {shown(names, 200)}. Give column names of the first "
                f"line, or numbers, as 1 and 2, if it names none",
                path=path,
                line=line,
            )
    elif not _are_usual(names):
        unquoted = [name.strip("\"'") for name in names]
        if unquoted != names and _are_usual(unquoted):
            raise DataError(
                f"its cells are in quotation marks, {shown(cells)}, which belong to CSV; write them without",
                path=path,
                line=line,
            )
        if _is_unsure(names, following):
            raise DataError(f"cannot tell whether {shown(cells, 200)} names columns; {_REMEDY}", path=path, line=line)
        return None
    twice = repeated(name for name in names if name)
    if twice is not None:
        raise DataError(f"two columns are named {twice!r}; give each a unique name", path=path, line=line)
    # pandas writes its index as a column without a name.
    return [name or f"column_{place}" for place, name in enumerate(names, start=1)]


def _numbered(cells: list[str], following: list[list[str]], named: Sequence[str], path: Path, line: int) -> list[str]:
    """Return the names of the columns if no line names them."""
    # A stray tab in the first line alone is a bad line, not a different format.
    widths = Counter(map(len, [cells, *following]))
    width = 2 if widths[2] else widths.most_common(1)[0][0]
    if named:
        wrong = next((number for number in named if not 1 <= int(number) <= width), None)
        if wrong is not None:
            raise DataError(f"has {width} columns, but no column {wrong}", path=path, line=line)
        return [str(number) for number in range(1, width + 1)]
    if width == 2:
        return ["id", "text"]
    if width == 1:
        raise DataError(
            f"has one column, {shown(cells[0])}; an id and a text are separated by a tab", path=path, line=line
        )
    raise DataError(
        f"has {width} columns, and its first line, {shown(cells, 200)}, names none of them; {_REMEDY}",
        path=path,
        line=line,
    )


def _are_numbers(named: Sequence[str]) -> bool:
    return bool(named) and all(re.fullmatch(r"[0-9]{1,4}", name) for name in named)


def _are_usual(names: list[str]) -> bool:
    return find_key(ID_KEYS, names) is not None and find_key((*TEXT_KEYS, *TITLE_KEYS), _others(names)) is not None


def _others(names: list[str]) -> list[str]:
    identity = find_key(ID_KEYS, names)
    return [name for name in names if name != identity]


def _is_unsure(names: list[str], following: list[list[str]]) -> bool:
    """Return whether a line without any usual name could still be a header."""
    parts = [_words(name) for name in names]
    if len(names) < 2 or not all(parts):
        return False
    ids, texts = parts[0], [words for name, words in zip(names[1:], parts[1:], strict=True) if " " not in name]
    return (
        not _ID_WORDS.isdisjoint(ids)
        or any(not _TEXT_WORDS.isdisjoint(words) for words in texts)
        # If all ids below have digits, a word without digits is not an id.
        or (bool(following) and all(any(map(str.isdigit, cells[0])) for cells in following))
    )


def _words(name: str) -> list[str]:
    """Return the words of a column's name; an empty list for anything that cannot be a name."""
    words = re.findall(r"[^\W_]+", _HUMP.sub(" ", name))
    fits = len(name) <= _LONGEST_NAME and len(words) <= _MOST_WORDS and all(word.isalpha() for word in words)
    return [word.casefold() for word in words] if fits else []


def write_beir(dataset: Dataset, folder: PathLike, *, overwrite: bool = False) -> None:
    """Write `corpus.jsonl.gz`, `queries.jsonl.gz` and `qrels/SPLIT.tsv`; the same content gives the same bytes.

    Args:
        dataset: The collection.
        folder: The folder, written atomically.
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
        raise InputError(f"metadata of {identity!r} has the key {clash[0]!r}, which BEIR reserves for the record")
    return dict(metadata)
