"""Benchmarks whose sets are known by name: BEIR, NanoBEIR, and TREC's tracks on MS MARCO and movies.

`NAME:SET` is a set from the Hub or from `ir_datasets`; `NAME:FOLDER#SET` the same set in a folder, laid out as its
download is. The judged split is always `test`.

| source | from the network | in FOLDER |
|---|---|---|
| `beir` | `BeIR/SET`, `BeIR/SET-qrels`; `mteb/cqadupstack-FORUM` | unpacked archives: `SET/`, `cqadupstack/FORUM/` |
| `nanobeir` | `zeta-alpha-ai/SET` | clones: `SET/corpus/*.parquet`, `SET/queries/`, `SET/qrels/` |
| `trec` | an entry of `ir_datasets` | the track's own files |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hyperseek._documents import find_key, id_of
from hyperseek.data._dataset import Dataset, Source
from hyperseek.data._qrels_and_runs import DOCUMENT_NAMES, QUERY_NAMES, Judgement
from hyperseek.data._text_files import open_files, open_folder
from hyperseek.data.hub import HubSource, hub_rows, open_ir_datasets
from hyperseek.data.open import SourceKind
from hyperseek.data.reading import Faults, FieldKeys, Row, documents_from_rows, queries_from_rows
from hyperseek.data.tables import file_rows
from hyperseek.errors import DataError, InputError, UnknownNameError, shown
from hyperseek.types import Document, Query

_FORUM = "cqadupstack-"
BEIR_GROUPS = {
    "BEIR": (
        *("arguana", "climate-fever", "dbpedia-entity", "fever", "fiqa", "hotpotqa", "nfcorpus", "nq", "quora"),
        *("scidocs", "scifact", "trec-covid", "webis-touche2020"),
    ),
    "CQADupStack": tuple(
        f"{_FORUM}{forum}"
        for forum in (
            *("android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex"),
            *("unix", "webmasters", "wordpress"),
        )
    ),
}
"""BEIR's public sets but its training data, and the twelve forums, whose mean counts as one set in BEIR's tables."""

NANOBEIR_GROUPS = {
    "NanoBEIR": (
        *("NanoArguAna", "NanoClimateFEVER", "NanoDBPedia", "NanoFEVER", "NanoFiQA2018", "NanoHotpotQA"),
        *("NanoMSMARCO", "NanoNFCorpus", "NanoNQ", "NanoQuoraRetrieval", "NanoSCIDOCS", "NanoSciFact"),
        "NanoTouche2020",
    )
}
"""The thirteen sets of 50 queries."""


class _Track(NamedTuple):
    """An entry of `ir_datasets`, and the names of the files of a download, the first that exists counting."""

    identity: str
    corpus: Sequence[str]
    queries: Sequence[str]
    qrels: Sequence[str]


_PASSAGES = ("collection.tsv", "collection.tsv.gz")
TRACKS = {
    "dl-2019": _Track(
        "msmarco-passage/trec-dl-2019/judged",
        _PASSAGES,
        ("msmarco-test2019-queries.tsv", "msmarco-test2019-queries.tsv.gz"),
        ("2019qrels-pass.txt",),
    ),
    "dl-2020": _Track(
        "msmarco-passage/trec-dl-2020/judged",
        _PASSAGES,
        ("msmarco-test2020-queries.tsv", "msmarco-test2020-queries.tsv.gz"),
        ("2020qrels-pass.txt",),
    ),
    "dl-hard": _Track(
        "msmarco-passage/trec-dl-hard",
        _PASSAGES,
        ("dataset/topics.tsv", "topics.tsv"),
        ("dataset/dl_hard-passage.qrels", "dl_hard-passage.qrels"),
    ),
    "msmarco-dev": _Track("msmarco-passage/dev/small", _PASSAGES, ("queries.dev.small.tsv",), ("qrels.dev.small.tsv",)),
    "tot-2023": _Track(
        "trec-tot/2023/dev",
        ("corpus.jsonl", "corpus.jsonl.gz", "TREC-TOT/corpus.jsonl"),
        ("dev/queries.jsonl", "TREC-TOT/dev/queries.jsonl", "queries.jsonl"),
        ("dev/qrel.txt", "TREC-TOT/dev/qrel.txt", "qrel.txt"),
    ),
}
"""TREC Deep Learning on passages, DL-HARD, MS MARCO's small development set, and Tip of the Tongue."""
_TRACK_GROUPS = {"TREC": ("dl-2019", "dl-2020", "dl-hard")}


class OneSplit:
    """A source with one of its judged splits, under the name `test`.

    Args:
        source: The source.
        split: The split; None for its only one.
    """

    splits = ("test",)

    def __init__(self, source: Source, split: str | None = None) -> None:
        self._source = source
        self._split = split

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents."""
        return self._source.documents(faults)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries."""
        return self._source.queries(faults)

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements."""
        return self._source.judgements(self._split or self._source.splits[0], faults)


class NanoSource:
    """A set of NanoBEIR: three tables, whose one split is named `train`, and judgements without grades.

    Args:
        place: A clone of the set's repository, or its name on the Hub.
    """

    splits = ("test",)

    def __init__(self, place: str) -> None:
        self._place = place

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents."""
        return documents_from_rows(self._rows("corpus", faults), self._path("corpus"), FieldKeys(), faults)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries."""
        return queries_from_rows(self._rows("queries", faults), self._path("queries"), FieldKeys(), faults)

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the relevant documents, all of grade 1."""
        path = self._path("qrels")
        for line, row in self._rows("qrels", faults):
            query_key, document_key = find_key(QUERY_NAMES, row), find_key(DOCUMENT_NAMES, row)
            query = None if query_key is None else id_of(row[query_key])
            document = None if document_key is None else id_of(row[document_key])
            if query is None or document is None:
                faults.found("bad_field", f"not a judgement: {shown(row)}", path=path, line=line)
            else:
                yield Judgement(query, document, 1, path, line)

    def _rows(self, table: str, faults: Faults) -> Iterator[Row]:
        folder = Path(self._place)
        return file_rows(folder / table, faults) if folder.is_dir() else hub_rows(f"{self._place}#{table}", None)

    def _path(self, table: str) -> str:
        return str(Path(self._place, table)) if Path(self._place).is_dir() else f"hub:{self._place}#{table}"


def split_place(text: str, name: str, known: Sequence[str]) -> tuple[Path | None, str]:
    """Split `[FOLDER#]SET`.

    Args:
        text: What follows the name of the source.
        name: That name, for messages.
        known: The sets that it has.

    Returns:
        The folder, if one is named, and the set.

    Raises:
        UnknownNameError: There is no such set.
        InputError: The text is of another form.
        DataError: There is no such folder.
    """
    place, hash_, subset = text.rpartition("#")
    if not re.fullmatch(r"\w[\w.-]*", subset) or (hash_ and not place):
        raise InputError(f"{name}:{text} is not of the form {name}:[FOLDER#]SET; the sets are {', '.join(known)}")
    if subset not in known:
        raise UnknownNameError(f"set of {name}", subset, known)
    if not place:
        return None, subset
    if not Path(place).is_dir():
        raise DataError("no such folder; give one that holds the sets as they are downloaded", path=place)
    return Path(place), subset


def open_beir(text: str) -> Dataset:
    """Open a set of BEIR: `scifact`, `cqadupstack-android`, or `FOLDER#SET`."""
    known = [*(one for group in BEIR_GROUPS.values() for one in group), "msmarco"]
    folder, subset = split_place(text, "beir", known)
    forum = subset.removeprefix(_FORUM) if subset.startswith(_FORUM) else None
    if folder is not None:
        inner = folder / subset if forum is None else folder / "cqadupstack" / forum
        if not inner.is_dir():
            found = ", ".join(sorted(child.name for child in folder.iterdir() if child.is_dir()))
            raise DataError(f"has no folder {inner.relative_to(folder)}; it has {found or 'none'}", path=folder)
        return open_folder(str(inner), FieldKeys()).reopened(name=subset)
    place = f"BeIR/{subset}" if forum is None else f"mteb/{subset}"
    return Dataset(subset, HubSource(place, FieldKeys()))


def open_nanobeir(text: str) -> Dataset:
    """Open a set of NanoBEIR: `NanoSciFact`, or `FOLDER#NanoSciFact`."""
    folder, subset = split_place(text, "nanobeir", NANOBEIR_GROUPS["NanoBEIR"])
    if folder is not None and not (folder / subset).is_dir():
        found = ", ".join(sorted(child.name for child in folder.iterdir() if child.is_dir()))
        raise DataError(f"has no folder {subset}; it has {found or 'none'}", path=folder)
    return Dataset(subset, NanoSource(f"zeta-alpha-ai/{subset}" if folder is None else str(folder / subset)))


def open_trec(text: str) -> Dataset:
    """Open a track: `dl-2019`, `dl-hard`, `tot-2023`, ..., or `FOLDER#dl-2019`."""
    folder, subset = split_place(text, "trec", list(TRACKS))
    track = TRACKS[subset]
    if folder is None:
        opened = open_ir_datasets(track.identity)
        return Dataset(opened.name, OneSplit(opened.source), check=False)
    corpus, queries, qrels = (_first(folder, names) for names in (track.corpus, track.queries, track.qrels))
    opened = open_files(str(corpus), FieldKeys(), queries, {"test": qrels})
    # Published judgements name queries and documents that are not there.
    return opened.reopened(name=track.identity.split("/")[0], check=False)


def _first(folder: Path, names: Sequence[str]) -> Path:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise DataError(f"has none of the files {', '.join(names)}", path=folder)
    return found


BEIR = SourceKind(open_beir, groups=BEIR_GROUPS)
NANOBEIR = SourceKind(open_nanobeir, groups=NANOBEIR_GROUPS)
TREC = SourceKind(open_trec, groups=_TRACK_GROUPS)
