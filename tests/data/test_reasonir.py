"""Training data in ReasonIR's form, its table of documents, and what an evaluation knows of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import (
    PrepareOptions,
    ReasonIROptions,
    TrainingExample,
    examples_from_reasonir,
    prepare,
    read_examples,
    read_source,
)
from hyperseek.data.reading import ErrorReport
from hyperseek.errors import ConfigError, DataError, HyperseekError, InputError

INSTRUCTION = "Given this query, find documents."
DOCUMENTS = [
    {"id": "biology/sun_1.txt", "content": "The sun is a star."},
    {"id": "biology/moon_2.txt", "content": "The moon is none."},
    {"id": "empty.txt", "content": " "},
]
HQ: list[dict[str, Any]] = [
    {
        "query": [INSTRUCTION, "What shines?"],
        "pos": [["", "biology/sun_1.txt"], ["Read:", "biology/moon_2.txt"], ["", "gone.txt"], "no pair"],
        "neg": [["", "biology/moon_2.txt"], ["", "A text of its own."]],
    },
    {"query": "plain", "pos": [["", "empty.txt"]], "neg": []},
]
VL: list[dict[str, Any]] = [{"query": ["", "a tree"], "pos": [["", "oak"]], "neg": [["", "and/or a stone"]]}]


def texts(example: TrainingExample) -> tuple[str, list[str], list[str]]:
    return example.query.text, [one.text for one in example.positives], [one.text for one in example.negatives]


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    """The documents as files of each kind, and the rows."""
    paths = {kind: tmp_path / f"documents.{kind}" for kind in ("jsonl", "parquet", "arrow", "stream.arrow")}
    paths["jsonl"].write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    table = pa.Table.from_pylist(DOCUMENTS)
    pq.write_table(table, paths["parquet"])
    with pa.ipc.new_file(paths["arrow"], table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_stream(paths["stream.arrow"], table.schema) as stream:
        stream.write_table(table)
    paths["folder"] = tmp_path / "folder"
    (paths["folder"] / "biology").mkdir(parents=True)
    for number, row in enumerate(DOCUMENTS):
        pq.write_table(pa.Table.from_pylist([row]), paths["folder"] / "biology" / f"{number}.parquet")
    for name, rows in (("hq", HQ), ("vl", VL)):
        paths[name] = tmp_path / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow", "stream.arrow", "folder"])
def test_ids_become_texts_and_what_is_left_out_is_counted(tables: dict[str, Path], kind: str) -> None:
    report = ErrorReport()
    options = ReasonIROptions(documents=str(tables[kind]))
    (example,) = examples_from_reasonir(str(tables["hq"]), options=options, report=report)
    assert texts(example) == (
        f"{INSTRUCTION} What shines?",
        ["The sun is a star.", "Read: The moon is none."],
        ["The moon is none.", "A text of its own."],
    )
    assert example.positives[0].id == "hq/biology/sun_1.txt"
    assert example.negatives[0].id == "hq/biology/moon_2.txt"
    assert report.counts == {
        "unknown_document": 1,
        "not_a_pair": 1,
        "document_without_text": 1,
        "no_positive": 1,
    }


def test_rows_in_memory_and_rows_of_texts(tables: dict[str, Path]) -> None:
    (example,) = examples_from_reasonir(VL)
    assert texts(example) == ("a tree", ["oak"], ["and/or a stone"])
    options = ReasonIROptions(documents=str(tables["jsonl"]), positives="either")
    assert [texts(one)[0] for one in examples_from_reasonir([*HQ, *VL], options=options)] == [
        f"{INSTRUCTION} What shines?",
        "a tree",
    ]


def test_ids_without_their_table_are_left_out_with_a_hint() -> None:
    report = ErrorReport()
    assert not list(examples_from_reasonir(HQ[:1], report=report))
    assert report.counts["unknown_document"] == 4
    assert "reasonir.documents=" in report.examples["unknown_document"][0]


def test_a_wrong_table_of_documents_is_an_error(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "x", "text": "y"}\n')
    with pytest.raises(DataError, match="none of the documents that its positives name"):
        list(examples_from_reasonir(HQ, options=ReasonIROptions(documents=str(other))))
    other.write_text('{"key": "x", "words": "y"}\n')
    with pytest.raises(DataError, match="columns of an id and a text"):
        list(examples_from_reasonir(HQ, options=ReasonIROptions(documents=str(other))))
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="not a Parquet file"):
        list(examples_from_reasonir(HQ, options=ReasonIROptions(documents=str(tmp_path / "broken.parquet"))))
    with pytest.raises(ConfigError, match="needs documents"):
        ReasonIROptions.from_mapping({"positives": "ids"})


def test_bad_rows_are_errors_or_counted() -> None:
    with pytest.raises(DataError, match="'query' must hold a text or a list of texts"):
        list(examples_from_reasonir([{"query": 1, "pos": []}]))
    report = ErrorReport()
    rows = [{"query": "a", "pos": "b"}, *VL]
    assert len(list(examples_from_reasonir(rows, on_error="skip", report=report))) == 1
    assert report.counts == {"bad_field": 1}


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """A collection that has the query of HQ without its instruction, and the text of one of its positives."""
    folder = tmp_path / "fruit"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": "d1", "text": "the SUN  is a star."}, {"_id": "d2", "text": "else"}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "what shines?"}\n')
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
    return folder


def test_prepare_reports_and_drops_what_an_evaluation_knows(
    tables: dict[str, Path], evaluation: Path, tmp_path: Path
) -> None:
    sources = [f"reasonir:{tables['hq']}", f"reasonir:{tables['vl']}"]
    values = {"reasonir": {"documents": str(tables["jsonl"]), "positives": "either"}}

    def options(action: str) -> PrepareOptions:
        return PrepareOptions.from_mapping({**values, "leaks": {"against": [str(evaluation)], "action": action}})

    info = prepare(tmp_path / "a", sources, options=options("report"))
    assert [source.kind for source in info.sources] == ["reasonir", "reasonir"]
    (leak,) = info.leaks
    assert (leak.queries, leak.documents, leak.examples, info.examples) == (1, 1, 1, 2)
    assert "query 'q1' and document 'd1'" in leak.first[0]

    assert prepare(tmp_path / "b", sources, options=options("drop")).examples == 1
    assert [texts(one)[0] for one in read_examples(tmp_path / "b")] == ["a tree"]
    assert [texts(one)[0] for one in read_source(tmp_path / "b")] == ["a tree"]
    with pytest.raises(InputError, match="leak into an evaluation"):
        prepare(tmp_path / "c", sources, options=options("fail"))
    assert not (tmp_path / "c").exists()


def test_the_command_reports_on_stderr_and_fails_with_a_status(tables: dict[str, Path], tmp_path: Path) -> None:
    source, documents = f"reasonir:{tables['hq']}", f"reasonir.documents={tables['folder']}"
    done = CliRunner().invoke(app, ["prepare", str(tmp_path / "out"), source, documents])
    assert done.exit_code == 0
    assert "1 unknown_document" in done.stderr
    report = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert report["sources"][0]["dropped"]["counts"]["unknown_document"] == 1
    failed = CliRunner().invoke(app, ["prepare", str(tmp_path / "none"), source, f"{documents}x"])
    assert failed.exit_code != 0
    assert not (tmp_path / "none").exists()


def test_lengths_on_the_command_line(tables: dict[str, Path], tiny_encoder: str) -> None:
    arguments = ["inspect", "lengths", tiny_encoder, f"reasonir:{tables['vl']}"]
    told = CliRunner().invoke(app, [*arguments, "--json"])
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert (report["query"]["texts"], report["negative"]["texts"], report["context"]) == (1, 1, 64)
    assert report["query"]["percentiles"]["max"] == 4  # [CLS] a tree [SEP]
    shown = CliRunner().invoke(app, arguments)
    assert "0 (0.0%)*" in shown.stdout
    assert "\ncut at " in shown.stdout  # no escape of a line break


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_damaged_tables_are_errors(kind: str, tmp_path: Path) -> None:
    """Bits are turned anywhere; offsets that lead out of an Arrow file once ended the process."""
    rows = [
        {"query": ["find", f"query {row}"], "pos": [["", f"text {row}"]], "neg": [["", "else"]]} for row in range(50)
    ]
    table, whole = pa.Table.from_pylist(rows), tmp_path / f"whole.{kind}"
    if kind == "parquet":
        pq.write_table(table, whole)
    else:
        with pa.OSFile(str(whole), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    content, damaged = whole.read_bytes(), tmp_path / f"damaged.{kind}"
    generator = np.random.default_rng(0)
    found = Counter[str]()
    for _ in range(150):
        changed = bytearray(content)
        for place in generator.integers(len(changed), size=3):
            changed[place] ^= 1 << generator.integers(8)
        damaged.write_bytes(changed[: generator.integers(len(changed))] if generator.random() < 0.2 else changed)
        try:
            found["read"] += len([*examples_from_reasonir(damaged, on_error="skip")]) > 0
        except HyperseekError:
            found["refused"] += 1
    assert found["read"]
    assert found["refused"]
