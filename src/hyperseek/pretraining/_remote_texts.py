"""Rows that other libraries read: data sets of the Hugging Face Hub, and shards of mosaicml-streaming."""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from hyperseek._errors import DataError, MissingExtraError, require
from hyperseek._files import reading
from hyperseek._fingerprint import fingerprint_file, fingerprint_json
from hyperseek.data._hub import csv_as_text, reading_hub
from hyperseek.data._lines import Row

logger = logging.getLogger(__name__)


def hub_texts(name: str, *, split: str, revision: str | None) -> Iterator[Row]:
    """Stream the rows of a Hub data set, or of a local folder that `datasets` reads.

    Args:
        name: `organisation/name`, with `#configuration` after it if it has several.
        split: The split.
        revision: Branch, tag or commit; None takes the newest.

    Yields:
        Row number from 1, and the row.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: There is no such data set, configuration or split.
    """
    datasets = require("datasets", extra="hub")
    dataset, _, configuration = name.partition("#")
    with reading_hub(name):
        options = csv_as_text(dataset, configuration or None, revision)
        rows = datasets.load_dataset(
            dataset, configuration or None, split=split, revision=revision, streaming=True, **options
        )
        yield from enumerate(rows, start=1)


def hub_fingerprint(name: str, *, split: str, revision: str | None) -> str:
    """Fingerprint what `hub_texts` reads: by the files of a local folder, by the commit of a data set on the Hub."""
    dataset, _, configuration = name.partition("#")
    if Path(dataset).is_dir():
        files = sorted(file for file in Path(dataset).rglob("*") if file.is_file())
        content: object = [fingerprint_file(file) for file in files]
    else:
        content = [dataset, _commit(dataset, revision)]
    return fingerprint_json(["hub", content, configuration, split])


def mds_texts(folder: Path) -> Iterator[Row]:
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
    # Packed shards are unpacked on the way, into a place of our own.
    with (
        tempfile.TemporaryDirectory(prefix="hyperseek-mds-") as unpacked,
        reading(folder, "a folder of MDS shards"),
    ):
        shards = streaming.StreamingDataset(remote=str(folder), local=unpacked, shuffle=False, batch_size=1)
        for position in range(shards.num_samples):
            yield position + 1, shards[position]


def mds_fingerprint(folder: Path) -> str:
    """Fingerprint MDS shards by their index, which holds their sizes, and their hashes where they were written."""
    _streaming()  # before anything else: without it the folder is of no use
    index = folder / "index.json"
    if not index.is_file():
        raise DataError("holds no index.json; give the folder of one split of MDS shards", path=folder)
    return fingerprint_json(["mds", fingerprint_file(index)])


def _streaming() -> ModuleType:
    # No extra of ours: up to 0.13 it demands transformers below 5 and NumPy below 2.2, which it runs with as well.
    try:
        return importlib.import_module("streaming")
    except ImportError as error:
        raise MissingExtraError(
            f"MDS shards are read by the package 'mosaicml-streaming', which could not be imported ({error}); its "
            f"releases up to 0.13 ask for older packages than hyperseek does, so install it without them, with "
            f"'pip install --no-deps mosaicml-streaming' and then what it misses, or write the texts as .jsonl"
        ) from error


def _commit(dataset: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().dataset_info(dataset, revision=revision).sha)
    except (HfHubHTTPError, OSError, ValueError) as error:
        logger.warning("hub:%s: cannot tell its commit (%s); changes of its data will not be noticed", dataset, error)
        return revision
