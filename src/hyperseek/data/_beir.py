"""Writing a collection as a BEIR folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperseek._errors import InputError
from hyperseek._progress import progress
from hyperseek._text_files import PathLike
from hyperseek.data._dataset import Dataset
from hyperseek.data._lines import gzip_json_lines
from hyperseek.data._qrels import write_qrels
from hyperseek.data._staging import staged_folder

_FIELDS = ("_id", "title", "text")
_OWNED = ("corpus.jsonl.gz", "queries.jsonl.gz", "qrels")


def write_beir(dataset: Dataset, folder: PathLike, *, overwrite: bool = False) -> None:
    """Write `corpus.jsonl.gz`, `queries.jsonl.gz` and `qrels/SPLIT.tsv`; the same content gives the same bytes.

    Args:
        dataset: The collection.
        folder: The folder; it is there whole or not at all.
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
        raise InputError(f"metadata of {identity!r} has the key {clash[0]!r}, which BEIR keeps for the record itself")
    return dict(metadata)
