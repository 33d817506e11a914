"""Fixtures shared by all tests: where the goldens and collections are, and an encoder small enough to build here."""

from __future__ import annotations

import functools
import gc
import gzip
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
import typer.testing

if TYPE_CHECKING:
    from programs import Programs

ROOT = Path(__file__).parent.parent
sys.path.append(str(Path(__file__).parent))  # for `programs`

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Programs that tests start, and the next run, need not compile this project again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, and threads of all of them would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_LINES = (
    "what how when where who is are was were the a an of in on for to and or not with by from this that it",
    "net network weights query document vector search index neural small large deep word text page book author",
    "cat dog bird fish sea sun moon star tree leaf river stone city road house door window table music song",
    "python module function class string list number file path error value key name time date type object",
)
WORDS = [word for line in _LINES for word in line.split()]

# Typer reads the annotations of every command each time that an app is called; they never change.
typer.main.get_command = typer.testing._get_command = functools.cache(typer.main.get_command)


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collections, of which each training asks for a full one."""
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes make no names of tests: packed ones hold the time of day, and all workers must collect the same names."""
    return argname if isinstance(val, bytes) else None


def _folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / default))
    if not folder.is_dir():
        pytest.skip(f"needs the folder {default} or {variable}={folder}")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The recorded inputs and outputs of the original systems."""
    return _folder("HYPERSEEK_GOLDEN", "../shared/golden")


@pytest.fixture(scope="session")
def collections() -> Path:
    """The real test collections, in BEIR layout."""
    return _folder("HYPERSEEK_DATA", "../shared/data")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT of 2 layers and width 32 with its tokenizer, as a transformers folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny-encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{letter}" for letter in "abcdes")]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}, model_max_length=64)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Starts Python programs without the seconds that imports of large packages take; see `programs`."""
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    from programs import Programs

    folder = tmp_path_factory.getbasetemp()
    started = Programs(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)  # one for all workers
    yield started
    started.close()


WriteLines = Callable[..., Path]


@pytest.fixture
def write_lines(tmp_path: Path) -> WriteLines:
    """Write a file of lines: texts as they are, mappings as JSON, bytes raw; gzipped if its name ends in .gz."""

    def write(name: str, lines: Iterable[str | bytes | Mapping[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = b"".join(
            line + b"\n"
            if isinstance(line, bytes)
            else (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n"
            for line in lines
        )
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return path

    return write


@pytest.fixture
def beir(write_lines: WriteLines, tmp_path: Path) -> Path:
    """A BEIR folder: three documents, two queries, train and test."""
    write_lines(
        "fruit/corpus.jsonl.gz",
        [
            {"_id": "d1", "title": "Apple", "text": "grows on trees", "colour": "red"},
            {"_id": "d2", "title": "", "text": "a yellow berry"},
            {"_id": "d3", "text": "no fruit at all"},
        ],
    )
    write_lines("fruit/queries.jsonl", [{"_id": "q1", "text": "what grows"}, {"_id": "q2", "text": "what is yellow"}])
    write_lines("fruit/qrels/test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td3\t0"])
    write_lines("fruit/qrels/train.tsv", ["q2\td2\t1"])
    return tmp_path / "fruit"
