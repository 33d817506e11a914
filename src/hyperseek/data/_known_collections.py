"""Collections that are known by name: `pydocs` and BRIGHT.

`pydocs` is the embedded corpus: the docstrings of the running Python, collected without importing anything. A document
is the body of a docstring, its title the dotted path; a query is the docstring's summary, which the document does not
contain. Splits are by top-level module, so that test data is never close to training data.

BRIGHT (arXiv 2407.12883) is twelve sets of queries that take reasoning to answer, each with documents of its own. A
query's `excluded_ids` name documents that its ranking must not hold, such as the post that the query itself is from.
They become metadata of the query, and evaluation leaves them out of rankings.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import itertools
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hyperseek._documents import id_of
from hyperseek._relevance import EXCLUDED_IDS
from hyperseek.data._dataset import Dataset, RecordsSource
from hyperseek.data._qrels_and_runs import Judgement
from hyperseek.data.hub import hub_rows
from hyperseek.data.open import SourceKind
from hyperseek.data.reading import (
    ErrorReport,
    Faults,
    FieldKeys,
    Row,
    base_stem,
    documents_from_rows,
    queries_from_rows,
)
from hyperseek.data.tables import file_rows, row_files
from hyperseek.errors import DataError, InputError, UnknownNameError, shown
from hyperseek.types import Document, Qrels, Query

_PYDOCS_SPLITS = ("train", "dev", "test")

_SHORTEST_BODY = 10  # words
_SHORTEST_SUMMARY = 3  # words
_LONGEST_SUMMARY = 250  # characters
_DEV_FROM, _TEST_FROM = 0.6, 0.75
_CALL = re.compile(r"[\w.]*\(|>>>")
# Tests, applications and bundled copies: their docstrings say little about the library.
_SKIPPED_MODULES = frozenset(
    {"antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "this", "turtledemo"}
)
_SKIPPED_FOLDERS = frozenset({"__pycache__", "_vendor", "site-packages", "test", "testing", "tests"})

Kind: TypeAlias = Literal["module", "class", "function", "method"]

_BRIGHT_ON_THE_HUB = "xlangai/BRIGHT"
BRIGHT_GROUPS = {
    "StackExchange": (
        *("biology", "earth_science", "economics", "psychology", "robotics", "stackoverflow", "sustainable_living"),
    ),
    "code": ("leetcode", "pony"),
    "theorems": ("aops", "theoremqa_questions", "theoremqa_theorems"),
}
"""The twelve sets, in the groups over which means are reported."""
_BRIGHT_SETS = tuple(subset for group in BRIGHT_GROUPS.values() for subset in group)
_NO_ID = "N/A"  # what lists without an id hold
_GOLD = ("gold_ids", "gold_ids_long")
_PART_OF_SEVERAL = re.compile(r"-\d{5}-of-\d{5}")
_BRIGHT_GRAMMAR = "bright:[PLACE#]SET[+long][+VARIANT]"


class PydocsSource:
    """The docstrings of the standard library, and of installed packages if asked.

    Args:
        packages: Import names of installed top-level packages.
    """

    def __init__(self, packages: Sequence[str] = ()) -> None:
        self._packages = tuple(packages)
        self._collected: RecordsSource | None = None
        self._report = ErrorReport()

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the judged splits."""
        return _PYDOCS_SPLITS

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents; docstrings that did not qualify are counted, never an error."""
        collected = self._collect()
        faults.report.merge(self._report)
        return collected.documents(faults)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries."""
        return self._collect().queries(faults)

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements of a split."""
        return self._collect().judgements(split, faults)

    def _collect(self) -> RecordsSource:
        if self._collected is None:
            packages = (installed_package(name) for name in self._packages)
            docstrings = itertools.chain(standard_library(), *packages)
            self._collected, self._report = build_pydocs(docstrings)
        return self._collected


def open_pydocs(packages: str) -> Dataset:
    """Open the embedded corpus.

    Args:
        packages: Import names of installed packages to add, separated by commas; may be empty.

    Returns:
        The collection.
    """
    names = tuple(name for name in packages.split(",") if name)
    return Dataset("-".join(("pydocs", *names)), PydocsSource(names))


PYDOCS = SourceKind(open_pydocs, splits=_PYDOCS_SPLITS)


def build_pydocs(docstrings: Iterable[Docstring]) -> tuple[RecordsSource, ErrorReport]:
    """Make a collection of docstrings.

    Args:
        docstrings: In any order, which the documents keep.

    Returns:
        The collection, with the splits train, dev and test, and a report of docstrings left out.
    """
    report = ErrorReport()
    kept = list(_distinct(_divided(docstrings, report), report))
    summaries = Counter(_normal(summary) for _, summary, _ in kept)
    documents, queries = [], []
    qrels: dict[str, Qrels] = {split: {} for split in _PYDOCS_SPLITS}
    for docstring, summary, body in kept:
        metadata = {"module": docstring.module, "kind": docstring.kind, "parents": docstring.parents}
        documents.append(Document(docstring.path, body, docstring.path, metadata))
        if summaries[_normal(summary)] > 1:
            report.add("same_summary_elsewhere", f"{docstring.path}: {summary!r} (kept as a document, not as a query)")
            continue
        # The prefix keeps query ids apart from document ids, so that excluding a query's own document has no effect.
        query = Query(f"q-{docstring.path}", summary, {"module": docstring.module})
        queries.append(query)
        qrels[split_of(docstring.module)][query.id] = {docstring.path: 1}
    return RecordsSource(documents, queries, qrels), report


def split_of(module: str) -> str:
    """Return the split of a module, by a hash of its top-level name: the same on every machine and version."""
    top = module.partition(".")[0]
    position = int.from_bytes(hashlib.blake2b(top.encode(), digest_size=8).digest(), "big") / 2**64
    return _PYDOCS_SPLITS[(position >= _DEV_FROM) + (position >= _TEST_FROM)]


def divide(text: str) -> tuple[str, str]:
    """Divide a docstring into summary and body.

    The summary is the first line if it is a sentence, otherwise the first paragraph.

    Args:
        text: The docstring, without indentation.

    Returns:
        The summary in one line, and the rest; the rest may be empty.
    """
    line, _, rest = text.partition("\n")
    if line.rstrip().endswith((".", "!", "?")):
        return " ".join(line.split()), rest.strip()
    paragraph, _, rest = text.partition("\n\n")
    return " ".join(paragraph.split()), rest.strip()


def _divided(docstrings: Iterable[Docstring], report: ErrorReport) -> Iterator[tuple[Docstring, str, str]]:
    for docstring in docstrings:
        summary, body = divide(docstring.text)
        reason = _disqualified(summary, body)
        if reason:
            report.add(reason, f"{docstring.path}: {summary[:80]!r}")
        else:
            yield docstring, summary, body


def _disqualified(summary: str, body: str) -> str | None:
    if len(body.split()) < _SHORTEST_BODY:
        return "body_too_short"
    if len(summary.split()) < _SHORTEST_SUMMARY or len(summary) > _LONGEST_SUMMARY:
        return "summary_too_short_or_long"
    if _CALL.match(summary):
        return "summary_is_code"
    if _normal(summary) in _normal(body):
        return "summary_in_body"
    return None


def _distinct(
    divided: Iterable[tuple[Docstring, str, str]], report: ErrorReport
) -> Iterator[tuple[Docstring, str, str]]:
    # The first of equal bodies is kept: a judgement of one of two equal documents would be wrong about the other.
    paths: set[str] = set()
    bodies: dict[str, str] = {}
    for docstring, summary, body in divided:
        if docstring.path in paths:
            report.add("same_path_twice", docstring.path)
            continue
        first = bodies.setdefault(_normal(body), docstring.path)
        if first != docstring.path:
            report.add("same_body_elsewhere", f"{docstring.path}: as {first}")
            continue
        paths.add(docstring.path)
        yield docstring, summary, body


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


@dataclass(frozen=True, slots=True)
class Docstring:
    """One docstring.

    Attributes:
        path: Dotted path of the documented object, as in `"json.decoder.JSONDecoder.decode"`.
        module: Dotted path of its module.
        kind: Kind of the documented object.
        text: The docstring, its indentation removed.
    """

    path: str
    module: str
    kind: Kind
    text: str

    @property
    def parents(self) -> list[str]:
        """Dotted paths of everything around it, outermost first."""
        parts = self.path.split(".")
        return [".".join(parts[:length]) for length in range(1, len(parts))]


def standard_library() -> Iterator[Docstring]:
    """Yield the docstrings of the standard library, sorted by file.

    Yields:
        Docstrings of public modules, classes, functions and methods, and of private modules.

    Raises:
        DataError: This Python was installed without the sources of its standard library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "json" / "__init__.py").exists():
        raise DataError("has no Python sources of the standard library; use a regular Python build", path=root)
    for name in sorted(sys.stdlib_module_names - _SKIPPED_MODULES):
        for path in (root / name, root / f"{name}.py"):
            if path.exists():
                yield from _from_path(path, name)


def installed_package(name: str) -> Iterator[Docstring]:
    """Yield the docstrings of an installed top-level package or module, found but not imported.

    Args:
        name: Its import name.

    Yields:
        Docstrings, sorted by file.

    Raises:
        DataError: It is not installed, or has no Python sources.
    """
    if not name.isidentifier():
        raise DataError(f"{name!r} is not the import name of a top-level package")
    found = None if name == "__main__" else importlib.util.find_spec(name)
    if found is None:
        raise DataError(f"package {name!r} is not installed; give the name under which it is imported")
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    paths = folders or ([Path(found.origin)] if found.origin and found.origin.endswith(".py") else [])
    if not paths:
        raise DataError(f"package {name!r} has no Python sources to read docstrings from")
    for path in paths:
        yield from _from_path(path, name)


def _from_path(path: Path, module: str) -> Iterator[Docstring]:
    if path.is_file():
        yield from _from_source(path, module)
        return
    for child in sorted(path.iterdir()):
        if child.is_dir():
            if child.name not in _SKIPPED_FOLDERS and child.name.isidentifier():
                yield from _from_path(child, f"{module}.{child.name}")
        elif child.name == "__init__.py":
            yield from _from_source(child, module)
        elif child.suffix == ".py" and child.stem.isidentifier() and not child.stem.startswith("test_"):
            yield from _from_source(child, f"{module}.{child.stem}")


def _from_source(path: Path, module: str) -> Iterator[Docstring]:
    try:
        with warnings.catch_warnings():
            # Old sources cause warnings about escapes, which we cannot fix.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
        # Templates, deliberately broken files and unreadable ones may end in .py too.
        return
    yield from _from_node(tree, module, module, "module")


def _from_node(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, path: str, module: str, kind: Kind
) -> Iterator[Docstring]:
    text = ast.get_docstring(node)
    if text:
        yield Docstring(path, module, kind, text)
    if kind in ("function", "method"):
        return
    for child in _definitions(node.body):
        name = child.name
        if name.startswith("_") and not (name.startswith("__") and name.endswith("__")):
            continue
        below: Kind = "class" if isinstance(child, ast.ClassDef) else "method" if kind == "class" else "function"
        yield from _from_node(child, f"{path}.{name}", module, below)


def _definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
        elif isinstance(statement, ast.If | ast.Try):
            # Definitions are often inside a version or platform check.
            yield from _definitions(statement.body)
            yield from _definitions(statement.orelse)
            for handler in getattr(statement, "handlers", ()):
                yield from _definitions(handler.body)


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
        raise InputError(f"bright:{text} is not of the form {_BRIGHT_GRAMMAR}; the sets are {', '.join(_BRIGHT_SETS)}")
    if not place and subset not in _BRIGHT_SETS:
        raise UnknownNameError("set of BRIGHT", subset, _BRIGHT_SETS)
    source = BrightSource(place or _BRIGHT_ON_THE_HUB, subset, long=long, variant=next(iter(variants), None))
    return Dataset(f"bright-{subset}{'-long' if long else ''}", source)


BRIGHT = SourceKind(open_bright, groups=BRIGHT_GROUPS)


def _ids(value: object) -> list[str] | None:
    """Return the ids of a list, each once, or None for what is not a list of ids."""
    if not isinstance(value, list | tuple):
        return None
    ids = [id_of(item) for item in value]
    if None in ids:
        return None
    return [identity for identity in dict.fromkeys(ids) if identity is not None and identity != _NO_ID]
