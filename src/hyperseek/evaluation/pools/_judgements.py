"""Judgements that people filled in: reading, merging, and how far assessors agree.

Cohen's kappa compares agreement with what chance gives, from how often each assessor gives each grade: 1 is perfect, 0
chance (Cohen, 1960). Weighted, a difference counts by its size (Cohen, 1968; linear weights).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek.data import read_qrels
from hyperseek.data.files.formats import separated_rows
from hyperseek.data.reading import Faults, json_lines
from hyperseek.errors import DataError, InputError, shown
from hyperseek.evaluation.pools._pooling import unguarded
from hyperseek.types import Qrels

Conflicts = Literal["leave-out", "lowest", "highest", "median"]
_SHOWN = 20


class Conflict(Config):
    """A document to which assessors gave different grades.

    Attributes:
        query_id: The query's id.
        document_id: The document's id.
        grades: By name of the file.
    """

    query_id: str
    document_id: str
    grades: dict[str, int]


class Agreement(Config):
    """How far two assessors agree.

    Attributes:
        first: Name of one file.
        second: Name of the other.
        both: Documents that both judged.
        same: Share of these with equal grades; None for no document.
        kappa: Cohen's kappa, at most 1; None where it is undefined, as where both gave one grade to everything.
        weighted: The same with linear weights.
        relevant: The same of whether a document is relevant.
    """

    first: str
    second: str
    both: int
    same: float | None
    kappa: float | None
    weighted: float | None
    relevant: float | None


class MergedJudgements(ShowsTables, Config):
    """Judgements of several files as one.

    Attributes:
        qrels: Grades by query and document.
        judged: Judgements by name of the file.
        empty: Rows without a grade by name of the file.
        conflicts: Documents with different grades.
        resolved: What became of them.
        agreement: Of each two files with documents in common.
    """

    qrels: Qrels
    judged: dict[str, int]
    empty: dict[str, int]
    conflicts: tuple[Conflict, ...]
    resolved: Conflicts
    agreement: tuple[Agreement, ...]

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        total = sum(map(len, self.qrels.values()))
        rows = [[name, f"{count:,}", f"{self.empty[name]:,}"] for name, count in self.judged.items()]
        yield f"{total:,} judgements of {len(self.qrels):,} queries", ["file", "judged", "without a grade"], rows
        if self.agreement:
            yield (
                "agreement",
                ["files", "both judged", "same grade", "kappa", "weighted kappa", "kappa of relevance"],
                [
                    [f"{one.first} and {one.second}", f"{one.both:,}"]
                    + [
                        "" if value is None else f"{value:.3f}"
                        for value in (one.same, one.kappa, one.weighted, one.relevant)
                    ]
                    for one in self.agreement
                ],
            )  # fmt: skip
        if self.conflicts:
            what = {"leave-out": "left out", "lowest": "the lowest grade", "highest": "the highest grade",
                    "median": "the median, the lower of two"}  # fmt: skip
            yield (
                f"{len(self.conflicts):,} documents with different grades: {what[self.resolved]}",
                ["query", "document", "grades"],
                [
                    [
                        one.query_id,
                        one.document_id,
                        ", ".join(f"{grade} ({name})" for name, grade in one.grades.items()),
                    ]
                    for one in self.conflicts[:_SHOWN]
                ],
            )

    def _frame_rows(self) -> Iterator[Mapping[str, Any]]:
        for query, judged in self.qrels.items():
            for document, grade in judged.items():
                yield {"query": query, "document": document, "grade": grade}


def merge_judgements(
    paths: Sequence[str | os.PathLike[str]], *, conflicts: Conflicts = "leave-out"
) -> MergedJudgements:
    """Read files that people judged, and earlier judgements, as one.

    Args:
        paths: Pools with grades filled in, as `.jsonl` or `.csv`, with `query_id`, `document_id` and `grade`; or
            judgements as `read_qrels` reads them.
        conflicts: What becomes of documents to which files give different grades: `leave-out`, the `lowest` or
            `highest` grade, or the `median`, the lower of two.

    Returns:
        The judgements, conflicts and agreement.

    Raises:
        InputError: There is no file, two have one name, or there is no such way to resolve conflicts.
        DataError: A file cannot be read, judges nothing, or judges a document twice with different grades; or a grade
            is not a whole number.
    """
    if conflicts not in ("leave-out", "lowest", "highest", "median"):
        raise InputError(f"conflicts are resolved by leave-out, lowest, highest or median, not by {shown(conflicts)}")
    named = {Path(path).name: path for path in paths}
    if not paths or len(named) < len(paths):
        raise InputError(f"give files of different names, which stand for their assessors, not {[*map(str, paths)]}")
    read = {name: _read(Path(path)) for name, path in named.items()}
    given: dict[tuple[str, str], dict[str, int]] = {}
    for name, (grades, _) in read.items():
        for pair, grade in grades.items():
            given.setdefault(pair, {})[name] = grade
    qrels: Qrels = {}
    found = []
    for (query, document), grades_of in given.items():
        ordered = sorted(grades_of.values())
        if ordered[0] != ordered[-1]:
            found.append(Conflict(query_id=query, document_id=document, grades=grades_of))
            if conflicts == "leave-out":
                continue
        place = {"lowest": 0, "highest": -1}.get(conflicts, (len(ordered) - 1) // 2)
        qrels.setdefault(query, {})[document] = ordered[place]
    pairs = (_agreement(first, second, read[first][0], read[second][0]) for first, second in combinations(read, 2))
    return MergedJudgements(
        qrels=qrels,
        judged={name: len(grades) for name, (grades, _) in read.items()},
        empty={name: empty for name, (_, empty) in read.items()},
        conflicts=tuple(found),
        resolved=conflicts,
        agreement=tuple(one for one in pairs if one.both),
    )


def _read(path: Path) -> tuple[dict[tuple[str, str], int], int]:
    """Return grades by query and document, and how many rows have none."""
    if path.suffix.lower() not in (".jsonl", ".csv"):
        return {(query, name): grade for query, own in read_qrels(path).items() for name, grade in own.items()}, 0
    faults = Faults()
    rows = json_lines(path, faults) if path.suffix.lower() == ".jsonl" else separated_rows(path, faults)
    grades: dict[tuple[str, str], int] = {}
    empty = 0
    for line, row in rows:
        query, document = (_text(row.get(key), key, path, line) for key in ("query_id", "document_id"))
        if path.suffix.lower() == ".csv":
            query, document = unguarded(query), unguarded(document)
        grade = row.get("grade")
        if grade is None or (isinstance(grade, str) and not grade.strip()):
            empty += 1
            continue
        value = _whole(grade, path, line)
        if grades.setdefault((query, document), value) != value:
            earlier = grades[query, document]
            message = f"gives query {query!r}, document {document!r} the grade {value} after {earlier}; keep one"
            raise DataError(message, path=path, line=line)
    if not grades:
        raise DataError("judges nothing: no row has a grade", path=path)
    return grades, empty


def _text(value: object, key: str, path: Path, line: int) -> str:
    if isinstance(value, str) and value:
        return value
    raise DataError(f"needs a {key}, a string, in each row, not {shown(value)}", path=path, line=line)


def _whole(value: object, path: Path, line: int) -> int:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0.5
        if number == int(number) and abs(number) < 1 << 31:
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise DataError(f"the grade must be a whole number, such as 0 to 3, not {shown(value)}", path=path, line=line)


def _agreement(
    first: str, second: str, one: Mapping[tuple[str, str], int], other: Mapping[tuple[str, str], int]
) -> Agreement:
    pairs = [(one[key], other[key]) for key in one if key in other]
    same = sum(a == b for a, b in pairs) / len(pairs) if pairs else None
    return Agreement(
        first=first,
        second=second,
        both=len(pairs),
        same=same,
        kappa=cohens_kappa(pairs),
        weighted=cohens_kappa(pairs, weighted=True),
        relevant=cohens_kappa([(int(a > 0), int(b > 0)) for a, b in pairs]),
    )


def cohens_kappa(pairs: Sequence[tuple[int, int]], *, weighted: bool = False) -> float | None:
    """Return Cohen's kappa of the grades of two assessors.

    Args:
        pairs: Both grades of each document.
        weighted: Whether a difference counts by its size, with linear weights.

    Returns:
        At most 1, 0 for chance; None without documents, or where chance alone agrees perfectly.
    """
    count = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)

    def apart(a: int, b: int) -> int:
        return abs(a - b) if weighted else int(a != b)

    observed = sum(apart(a, b) for a, b in pairs) * count
    expected = sum(apart(a, b) * first[a] * second[b] for a in first for b in second)
    return 1 - observed / expected if expected else None
