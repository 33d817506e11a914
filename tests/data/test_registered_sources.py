"""A data source of a package outside the project works wherever a source is named, without a change in ours."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import Dataset, open_dataset, prepare, read_examples, register_source
from hyperseek.data.open import SOURCES, parse_source
from hyperseek.errors import DataError, InputError

PACKAGE = """
from hyperseek.data import Dataset

WORDS = "cat dog bird fish sea sun moon star tree leaf river stone".split()

def open_words(place):
    def documents():
        return ((f"d{n}", f"{word} {WORDS[n - 1]} {place}") for n, word in enumerate(WORDS))
    queries = [(f"q{n}", f"what is a {word}") for n, word in enumerate(WORDS)]
    qrels = {"train": {f"q{n}": {f"d{n}": 1} for n in range(8)}, "dev": {f"q{n}": {f"d{n}": 1} for n in range(8, 12)}}
    return Dataset.from_records(f"words-{place}", documents, queries=queries, qrels=qrels)
"""
POINTS = "[hyperseek.sources]\nwords = word_source:open_words\npydocs = word_source:open_words\n"
TRAIN = """
model: {{trunk: {trunk}, family: dense, linear: {{sides: query}}}}
data: {{sources: {{toy: {{source: "words:net:train"}}}}}}
losses: {{contrastive: {{temperature: 0.1}}}}
train: {{max_steps: 1, batch_size: 4, device: cpu, cache: {{folder: cache}}}}
validation: {{sets: {{toy: {{source: "words:net:dev"}}}}}}
output: {{report_to: []}}
"""
PRETRAIN = """
model: {{architecture: hyte_fh, tokenizer: {trunk}, config: {{hidden_size: 8, num_hidden_layers: 1,
  num_attention_heads: 1, intermediate_size: 8, max_position_embeddings: 32, pooling: outward_einstein_midpoint}}}}
data: {{sources: {{toy: {{source: "words:net"}}}}, sequence_length: 16, validation_share: 0}}
train: {{max_steps: 1, batch_size: 2, device: cpu}}
output: {{report_to: []}}
"""


@pytest.fixture
def nothing_found_yet(monkeypatch):
    """As in a new process, no package has been looked for."""
    monkeypatch.setattr(SOURCES, "_points", None)
    monkeypatch.setattr(SOURCES, "_values", dict(SOURCES._values))
    yield
    sys.modules.pop("word_source", None)


def test_a_package_outside_the_project(nothing_found_yet, tmp_path, tiny_encoder, monkeypatch, caplog):
    site = tmp_path / "site"
    (site / "words-1.0.dist-info").mkdir(parents=True)
    (site / "word_source.py").write_text(PACKAGE)
    (site / "words-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: words\nVersion: 1.0\n")
    (site / "words-1.0.dist-info/entry_points.txt").write_text(POINTS)
    (tmp_path / "train.yaml").write_text(TRAIN.format(trunk=tiny_encoder))
    (tmp_path / "pretrain.yaml").write_text(PRETRAIN.format(trunk=tiny_encoder))
    commands = [
        ["prepare", "prepared", "words:net:train", "other=words:deep:dev"],
        ["prepare", "--beir", "copy", "words:net"],
        ["encode", tiny_encoder, "words:net", "--index", "index", "--device", "cpu"],
        ["mine", "prepared", "mined", "words-net=index", tiny_encoder, "mining.negatives=1", "mining.margin=null",
         "--device", "cpu"],
        ["train", "train.yaml", "--output", "trained"],
        ["pretrain", "pretrain.yaml", "--output", "pretrained"],
    ]  # fmt: skip
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    shown = ""
    for command in commands:
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        shown += result.stderr
    assert "pydocs = 'word_source:open_words' of the package words is ignored: the name" in caplog.text
    assert {example.source for example in read_examples(tmp_path / "prepared")} == {"words-net", "other"}
    assert all(len(example.negatives) == 1 for example in read_examples(tmp_path / "mined"))
    assert open_dataset(tmp_path / "copy").count() == 12
    assert "12 documents" in shown
    record = json.loads((tmp_path / "trained/run.json").read_text())
    assert record["steps"] == 1
    assert "toy" in record["validation"][0]["scores"]
    assert json.loads((tmp_path / "pretrained/run.json").read_text())["steps"] == 1


@pytest.fixture
def registered():
    names = []

    def register(name, opener):
        register_source(name, opener)
        names.append(name)

    yield register
    for name in names:
        SOURCES.unregister(name)


def test_a_source_is_read_anew_at_each_call(registered):
    calls = []

    def read(place):
        def documents():
            calls.append(place)
            yield from ["x", "y"]

        return Dataset.from_records("mine", documents, queries=lambda: ["q"], qrels={"dev": lambda: {"0": {"1": 2}}})

    registered("mine", read)
    dataset = open_dataset("basket=mine:a/b")
    assert (dataset.name, dataset.splits, calls) == ("basket", ("dev",), [])
    assert [document.text for document in dataset.documents()] == ["x", "y"]
    assert (dataset.qrels("dev"), dataset.queries("dev")[0].text) == ({"0": {"1": 2}}, "q")
    assert calls == ["a/b", "a/b"]
    parsed = parse_source("n=mine:C:/x:dev")
    assert (parsed.name, parsed.place, parsed.split) == ("n", "mine:C:/x", "dev")
    assert parse_source("mine:C:/x").split is None
    registered("my-own", read)
    assert open_dataset("my-own:a").splits == ("dev",)


@pytest.mark.parametrize("name", ["hub", "pydocs", "columns", "hypencoder", "mds", "c", "two words"])
def test_names_that_are_refused(name):
    with pytest.raises(InputError, match=r"is taken|two letters|a word of letters"):
        register_source(name, lambda place: place)
    with pytest.raises(InputError, match="must be a function that opens a place, not 5"):
        register_source("five", 5)


def test_what_a_source_does_wrong_is_an_error_of_ours(registered, tmp_path):
    def broken(place):
        if place == "open":
            raise RuntimeError("no connection")
        if place == "other":
            return [place]

        def documents():
            yield "x"
            raise KeyError("gone")

        qrels = {"train": (lambda: 1 / 0) if place == "judge" else {"0": {"0": 1}}}
        return Dataset.from_records("broken", documents, queries=["q"], qrels=qrels)

    registered("broken", broken)
    with pytest.raises(DataError, match="broken:open: cannot be opened by the data source 'broken': RuntimeError"):
        open_dataset("broken:open")
    with pytest.raises(InputError, match=r"must return a hyperseek\.data\.Dataset, not \['other'\]"):
        open_dataset("broken:other")
    with pytest.raises(DataError, match="broken: cannot be read: KeyError: 'gone'"):
        prepare(tmp_path / "out", ["broken:read"])
    with pytest.raises(DataError, match="broken: cannot be read: ZeroDivisionError"):
        open_dataset("broken:judge").qrels("train")
