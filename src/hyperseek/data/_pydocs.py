"""`pydocs`, the embedded corpus: every Python has it, every user knows it.

A document is the body of a docstring, its title the dotted path; a query is the docstring's summary, which the
document does not hold. Splits are by top-level module, so that what is tested was never near what is trained.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from hyperseek.data._docstrings import Docstring, installed_package, standard_library
from hyperseek.data._qrels import Judgement
from hyperseek.data._report import ErrorReport, Faults
from hyperseek.data._source import MemorySource
from hyperseek.records import Document, Qrels, Query

SPLITS = ("train", "dev", "test")

_SHORTEST_BODY = 10  # words
_SHORTEST_SUMMARY = 3  # words
_LONGEST_SUMMARY = 250  # characters
_DEV_FROM, _TEST_FROM = 0.6, 0.75
_CALL = re.compile(r"[\w.]*\(|>>>")


class PydocsSource:
    """The docstrings of the standard library, and of installed packages if asked.

    Args:
        packages: Import names of installed top-level packages.
    """

    def __init__(self, packages: Sequence[str] = ()) -> None:
        self._packages = tuple(packages)
        self._collected: MemorySource | None = None
        self._report = ErrorReport()

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the judged splits."""
        return SPLITS

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

    def _collect(self) -> MemorySource:
        if self._collected is None:
            packages = (installed_package(name) for name in self._packages)
            docstrings = itertools.chain(standard_library(), *packages)
            self._collected, self._report = build_pydocs(docstrings)
        return self._collected


def build_pydocs(docstrings: Iterable[Docstring]) -> tuple[MemorySource, ErrorReport]:
    """Make a collection of docstrings.

    Args:
        docstrings: In any order; the order of the documents follows it.

    Returns:
        The collection, with the splits train, dev and test, and what was left out and why.
    """
    report = ErrorReport()
    kept = list(_distinct(_divided(docstrings, report), report))
    summaries = Counter(_normal(summary) for _, summary, _ in kept)
    documents, queries = [], []
    qrels: dict[str, Qrels] = {split: {} for split in SPLITS}
    for docstring, summary, body in kept:
        metadata = {"module": docstring.module, "kind": docstring.kind, "parents": docstring.parents}
        documents.append(Document(docstring.path, body, docstring.path, metadata))
        if summaries[_normal(summary)] > 1:
            report.add("same_summary_elsewhere", f"{docstring.path}: {summary!r} (kept as a document, not as a query)")
            continue
        # The q keeps query ids apart from document ids, so that excluding a query's own document excludes nothing.
        query = Query(f"q-{docstring.path}", summary, {"module": docstring.module})
        queries.append(query)
        qrels[split_of(docstring.module)][query.id] = {docstring.path: 1}
    return MemorySource(documents, queries, qrels), report


def split_of(module: str) -> str:
    """Return the split of a module, by a hash of its top-level name: the same on every machine and version."""
    top = module.partition(".")[0]
    position = int.from_bytes(hashlib.blake2b(top.encode(), digest_size=8).digest(), "big") / 2**64
    return SPLITS[(position >= _DEV_FROM) + (position >= _TEST_FROM)]


def divide(text: str) -> tuple[str, str]:
    """Divide a docstring into summary and body.

    The summary is the first line if that is a sentence, else the first paragraph.

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
    # The first of equal bodies stays: two equal documents would make every judgement of one a lie about the other.
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
