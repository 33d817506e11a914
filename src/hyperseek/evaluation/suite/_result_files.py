"""Result files: one of each system and collection, from which every number of a table is computed.

A file holds the protocol, the values of each query, the best documents of each, and what all of it cost. Any further
measure can be computed from the rankings, with the judgements of the collection.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from hyperseek._config import Config
from hyperseek._files import atomic_write, reading
from hyperseek.errors import DataError, InputError
from hyperseek.evaluation._measures import PerQuery, aggregate, calculate
from hyperseek.evaluation._result import Evaluation, Protocol, Slices
from hyperseek.types import Qrels, Run

SUFFIX = ".json.gz"
_REMEDY = "delete it, and it is measured again"
_LARGEST = 1 << 28  # bytes of a file, unpacked
_DIGITS = 7  # of scores: float32 has no more

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^\w[\w.+-]*$", max_length=60)]
"""Of a system or collection; a part of the names of files."""
_Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]
_Amount: TypeAlias = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e12)]


class SuiteCosts(Config):
    """What a system cost on one collection. None where it is not known, or there is nothing of the kind.

    Attributes:
        training_seconds: Of each part of the training.
        parameters: Trained numbers.
        encoding_seconds: Of encoding the documents, or of indexing them for BM25; None if that was interrupted.
        documents: How many documents there are.
        point_bytes: Bytes of the numbers that are searched, over all documents.
        index_bytes: Bytes of the index's folder, texts included.
        index: Fingerprint of the document side; systems of one share an index.
        compile_ms: Milliseconds of each timed query, from its text to a scorer.
        search_ms: Milliseconds of each timed query, from the scorer to its best documents, exhaustively unless a plan
            says otherwise.
        hardware: Processor, cores, threads.
        load: How many programs were waiting for a processor; above the number of cores, times are too long.
    """

    training_seconds: dict[str, _Amount] | None = None
    parameters: int | None = None
    encoding_seconds: _Amount | None = None
    documents: int = Field(ge=0)
    point_bytes: int | None = None
    index_bytes: int | None = None
    index: str | None = None
    compile_ms: tuple[_Amount, ...] = ()
    search_ms: tuple[_Amount, ...] = ()
    hardware: dict[str, Any] = Field(default_factory=dict)
    load: _Amount | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.compile_ms and len(self.compile_ms) != len(self.search_ms):
            raise ValueError("compile_ms and search_ms are not of the same queries")
        if not isinstance(self.hardware.get("cores") or 1, int):
            raise ValueError("the cores of its hardware are no whole number")
        return self

    @property
    def query_ms(self) -> tuple[float, ...]:
        """Milliseconds of each timed query in all."""
        if not self.compile_ms:
            return self.search_ms
        return tuple(one + other for one, other in zip(self.compile_ms, self.search_ms, strict=True))


class SuiteResult(Config):
    """One system on one collection.

    Attributes:
        format: Version of the file.
        suite: Name of the suite.
        baseline: The system that the suite compares others with.
        place: Row and column in the suite's table.
        system: Name of the system.
        collection: Name of the collection.
        seed: Seed of its training; None for a system that is not trained here.
        key: Fingerprint of everything that the result depends on: a result with another key is measured again.
        column: What makes the collection this one; see `title` of tables.
        about: What the system is.
        training: What it was trained with: recipe, steps, batches, rates, data.
        protocol: How the result was measured.
        queries: Ids of the measured queries, in order.
        values: By measure the values of the queries.
        slices: Queries by documents relevant in training; None if unknown.
        documents: Ids of all documents that are in a ranking.
        rankings: For each query the positions in `documents` of its best, in order; None where a published file leaves
            them out.
        scores: Their scores; None where a published file leaves them out.
        notes: Remarks for readers of the numbers.
        costs: What it cost.
    """

    format: Literal[1] = 1
    suite: str
    baseline: str
    place: tuple[int, int] = (0, 0)
    system: Name
    collection: Name
    seed: int | None = None
    key: str
    column: dict[str, Any]
    about: str = ""
    training: dict[str, Any] | None = None
    protocol: Protocol
    queries: tuple[str, ...] = Field(min_length=1)
    values: dict[str, tuple[_Number, ...]]
    slices: Slices | None = None
    documents: tuple[str, ...] = ()
    rankings: tuple[tuple[int, ...], ...] | None = None
    scores: tuple[tuple[float, ...], ...] | None = None
    notes: tuple[str, ...] = ()
    costs: SuiteCosts

    @model_validator(mode="after")
    def _check(self) -> Self:
        lengths = {len(self.queries), *(len(values) for values in self.values.values())}
        lengths |= {len(each) for each in (self.rankings, self.scores) if each is not None}
        if len(lengths) > 1:
            raise ValueError("its queries, values and rankings are not of one length")
        if len(set(self.queries)) < len(self.queries):
            raise ValueError("a query is there twice")
        if any(not 0 <= row < len(self.documents) for ranking in self.rankings or () for row in ranking):
            raise ValueError("a ranking names a document that is not there")
        return self

    @property
    def file_name(self) -> str:
        """The file's path in a folder of results."""
        seed = "" if self.seed is None else f".{self.seed}"
        return f"{self.collection}/{self.system}{seed}{SUFFIX}"

    def run(self) -> Run:
        """Return the rankings, with scores, or where these were left out with ranks in their place.

        Returns:
            Scores by query and document.

        Raises:
            InputError: The file has no rankings.
        """
        if self.rankings is None:
            raise InputError(f"the result of {self.system} on {self.collection} was published without rankings")
        scores = self.scores or tuple(tuple(-float(rank) for rank in range(len(one))) for one in self.rankings)
        return {
            query: {self.documents[row]: score for row, score in zip(rows, own, strict=True)}
            for query, rows, own in zip(self.queries, self.rankings, scores, strict=True)
        }

    def measured(self, qrels: Qrels, measures: Sequence[str]) -> PerQuery:
        """Compute measures from the rankings.

        Args:
            qrels: The judgements of the collection.
            measures: Names of measures.

        Returns:
            Values by measure and query.

        Raises:
            InputError: The file has no rankings.
        """
        return calculate(self.run(), qrels, measures)

    def evaluation(self) -> Evaluation:
        """Return the result without its rankings and costs."""
        values = {name: dict(zip(self.queries, own, strict=True)) for name, own in self.values.items()}
        return Evaluation(
            name=self.system,
            per_query=values,
            aggregate=aggregate(values),
            protocol=self.protocol,
            slices=self.slices,
            notes=self.notes,
        )

    def published(self, *, rankings: bool) -> SuiteResult:
        """Return the result as it is small: without scores, and with or without rankings."""
        kept = self.rankings if rankings else None
        documents = self.documents if rankings else ()
        return self.model_copy(update={"scores": None, "rankings": kept, "documents": documents})

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the file, atomically.

        Args:
            folder: The folder of results.

        Returns:
            The file's path.
        """
        path = Path(folder) / self.file_name
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))
        with atomic_write(path, "wb") as file:
            file.write(gzip.compress(text.encode(), mtime=0))  # without a time, so that equal results are equal files
        return path


def packed(run: Run, queries: Iterable[str]) -> dict[str, Any]:
    """Return a run as the fields of a result file.

    Args:
        run: Scores by query and document.
        queries: Ids, in order; those without a ranking have an empty one.

    Returns:
        The fields `documents`, `rankings` and `scores`.
    """
    places: dict[str, int] = {}
    rankings, scores = [], []
    for query in queries:
        own = run.get(query, {})
        rankings.append(tuple(places.setdefault(document, len(places)) for document in own))
        scores.append(tuple(float(f"{score:.{_DIGITS}g}") for score in own.values()))
    return {"documents": tuple(places), "rankings": tuple(rankings), "scores": tuple(scores)}


def read_result(path: str | os.PathLike[str]) -> SuiteResult:
    """Read one result file.

    Args:
        path: The file.

    Returns:
        The result.

    Raises:
        DataError: It is missing, damaged, or no result.
    """
    with reading(path, "a result of a suite", remedy=_REMEDY):
        with gzip.open(path) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"more than {_LARGEST:,} bytes")
        values = json.loads(content)
    return SuiteResult.from_mapping(values, source=os.fspath(path), error=DataError, remedy=_REMEDY)


def read_results(folder: str | os.PathLike[str]) -> list[SuiteResult]:
    """Read all result files of a folder.

    Args:
        folder: As `run_suite` or `publish_results` wrote it.

    Returns:
        The results, by rows and columns of the suite's table.

    Raises:
        DataError: There are none, or a file is damaged.
    """
    place = Path(folder)
    found = sorted(_files(place if not (place / "results").is_dir() else place / "results"))
    if not found:
        raise DataError(
            f"no result files ({SUFFIX}); give the output folder of `hyperseek evaluate --suite`", path=place
        )
    return sorted(map(_named, found), key=lambda result: result.place)


def _named(path: Path) -> SuiteResult:
    result = read_result(path)
    if result.file_name != f"{path.parent.name}/{path.name}":  # or a result could count twice
        raise DataError(f"is the result {result.file_name}; give the file that name, or remove it", path=path)
    return result


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob(f"*/*{SUFFIX}") if not path.name.startswith("."))


def publish_results(
    results: Iterable[SuiteResult], folder: str | os.PathLike[str], *, rankings: Collection[str] = ()
) -> Mapping[Path, int]:
    """Write results small enough to keep beside a program's source.

    Args:
        results: As `read_results` returns them.
        folder: Where to write them.
        rankings: Names of the collections whose rankings are kept; the others keep the values of queries.

    Returns:
        Bytes by file.
    """
    written = {}
    for result in results:
        path = result.published(rankings=result.collection in rankings).write(folder)
        written[path] = path.stat().st_size
    return written
