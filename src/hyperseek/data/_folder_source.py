"""Collections in files: BEIR folders, or a corpus file with queries and judgements beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hyperseek._bounded import existing_file
from hyperseek.data._qrels import Judgement, read_judgements
from hyperseek.data._texts import TEXT_SUFFIXES, read_document_rows, read_query_rows
from hyperseek.data.lines import FieldKeys, base_stem, base_suffix
from hyperseek.data.report import Faults
from hyperseek.errors import DataError
from hyperseek.types import Document, Query

_QRELS_SUFFIXES = (".tsv", ".txt", ".qrels", ".trec", ".json")


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
            DataError: There is no corpus, a file is there in two forms, or judgements lack queries.
        """
        corpus = _only(folder, "corpus")
        if corpus is None:
            raise DataError(
                f"holds no corpus{'|'.join(TEXT_SUFFIXES)}[.gz] but {sorted(p.name for p in folder.iterdir())}; "
                f"give a BEIR folder, or the corpus file itself",
                path=folder,
            )
        queries = _only(folder, "queries")
        qrels = _find_qrels(folder / "qrels")
        if qrels and queries is None:
            raise DataError("holds judgements but no queries.jsonl", path=folder)
        return cls(corpus, queries, qrels, keys)


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
