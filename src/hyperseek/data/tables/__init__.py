"""Training examples from tables: rows of queries and texts in one form or another, and how rows are read from files.

The files are JSON lines, Parquet and Arrow, alone or in a folder, and shards of mosaicml-streaming.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from hyperseek._bounded import PathLike, existing_file, path_text
from hyperseek._files import reading
from hyperseek._fingerprint import fingerprint_file, fingerprint_json
from hyperseek.data.reading import Faults, Row, base_suffix, json_lines
from hyperseek.errors import DataError, MissingExtraError

_ROWS_AT_ONCE = 256  # of Parquet; a document may be long
_ARROW_FILE = b"ARROW1"  # what files begin with; streams, which `datasets` writes, do not


def file_rows(path: PathLike, faults: Faults) -> Iterator[Row]:
    """Stream the rows of a file, or of all files of a folder in the order of their paths.

    Args:
        path: A `.jsonl` file, plain or `.gz`, a `.parquet` or an `.arrow` file, or a folder of such files, as
            `datasets` saves them.
        faults: Where lines without a row go.

    Returns:
        Row numbers from 1, in each file, and rows.

    Raises:
        DataError: A file is missing, damaged or of another kind, or the folder holds none.
    """
    return (row for file in row_files(path) for row in _READERS[base_suffix(file)](file, faults))


def row_files(path: PathLike) -> list[Path]:
    """Return the files that `file_rows` reads; a `DataError` where there is none."""
    folder = Path(path_text(path))
    if not folder.is_dir():
        file = existing_file(path)
        if base_suffix(file) not in _READERS:
            raise DataError(f"rows are read from {_KINDS}, from folders of these, or from 'hub:NAME'", path=path)
        return [file]
    found = sorted(file for file in folder.rglob("*") if file.is_file() and base_suffix(file) in _READERS)
    if not found:
        raise DataError(f"holds no {_KINDS}", path=folder)
    return found


def is_table(path: PathLike) -> bool:
    """Return whether `file_rows` reads files of this name."""
    return base_suffix(path) in _READERS


def rows_fingerprint(path: PathLike) -> str:
    """Fingerprint the content of what `file_rows` reads."""
    found = row_files(path)
    names = [fingerprint_file(file) for file in found]
    return names[0] if found == [Path(path)] else fingerprint_json(["rows", names])


def _parquet_rows(path: Path, faults: Faults) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with reading(path, "a Parquet file"), pq.ParquetFile(path) as file:
        yield from _numbered(file.iter_batches(_ROWS_AT_ONCE))


def _arrow_rows(path: Path, faults: Faults) -> Iterator[Row]:
    import pyarrow as pa

    with reading(path, "an Arrow file"), pa.memory_map(str(path)) as source:
        is_file = source.read(len(_ARROW_FILE)) == _ARROW_FILE
        source.seek(0)
        if is_file:
            file = pa.ipc.open_file(source)
            yield from _numbered(map(file.get_batch, range(file.num_record_batches)))
        else:
            yield from _numbered(pa.ipc.open_stream(source))


def _numbered(batches: Any) -> Iterator[Row]:
    number = 0
    for batch in batches:
        batch.validate(full=True)  # offsets are followed unchecked, out of the memory that a damaged file has
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            for row in batch.slice(start, _ROWS_AT_ONCE).to_pylist():
                number += 1
                yield number, row


_READERS: dict[str, Callable[[Path, Faults], Iterator[Row]]] = {
    ".jsonl": json_lines,
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
_KINDS = ".jsonl files, plain or .gz, .parquet or .arrow files"


def mds_rows(folder: Path) -> Iterator[Row]:
    """Read the samples of a folder of MDS shards, in their order.

    Args:
        folder: Holds `index.json`; nothing is written into it.

    Yields:
        Sample number from 1, and the sample.

    Raises:
        MissingExtraError: `mosaicml-streaming` is not installed.
        DataError: A shard is missing or damaged.
    """
    streaming = _streaming()
    # Compressed shards are unpacked into a temporary folder.
    with (
        tempfile.TemporaryDirectory(prefix="hyperseek-mds-") as unpacked,
        reading(folder, "a folder of MDS shards"),
    ):
        shards = streaming.StreamingDataset(remote=str(folder), local=unpacked, shuffle=False, batch_size=1)
        for position in range(shards.num_samples):
            yield position + 1, shards[position]


def mds_fingerprint(folder: Path) -> str:
    """Fingerprint MDS shards by their index, which holds their sizes, and their hashes if they were written."""
    _streaming()  # first of all: without it the folder cannot be read
    index = folder / "index.json"
    if not index.is_file():
        raise DataError("holds no index.json; give the folder of one split of MDS shards", path=folder)
    return fingerprint_json(["mds", fingerprint_file(index)])


def _streaming() -> ModuleType:
    # Not an extra of ours: up to 0.13 it requires transformers below 5 and NumPy below 2.2, although newer ones work.
    try:
        return importlib.import_module("streaming")
    except ImportError as error:
        raise MissingExtraError(
            f"MDS shards need the package 'mosaicml-streaming', which could not be imported ({error}); its "
            f"releases up to 0.13 require older packages than hyperseek does, so install it without them, with "
            f"'pip install --no-deps mosaicml-streaming' and then any missing packages, or write the texts as .jsonl"
        ) from error
