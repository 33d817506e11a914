"""Samples of MDS shards, the format of mosaicml-streaming."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from hyperseek._files import reading
from hyperseek._fingerprint import fingerprint_file, fingerprint_json
from hyperseek.data.reading import Row
from hyperseek.errors import DataError, MissingExtraError


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
