from __future__ import annotations

import dataclasses
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperseek.data import (
    ExampleItem,
    TrainingExample,
    read_examples,
    read_prepared,
    trained_documents,
    write_examples,
)
from hyperseek.errors import DataError, InputError
from hyperseek.types import Document, Query

EXAMPLES = [
    TrainingExample(
        Query("a/q1", "one", {"year": 1}),
        (ExampleItem("a/d1", "x", 1.5, 2),),
        (ExampleItem("a/d2/e", "y", -0.25),),
        "a",
        "task",
        "do it",
    ),
    TrainingExample(Query("b/q1", "two"), (ExampleItem("b/d1", "z"), ExampleItem("a/d1", "x")), (), "b", weight=0.25),
]


def test_round_trip(tmp_path):
    info = write_examples(EXAMPLES, tmp_path / "out", source="by hand")
    assert (info.examples, info.documents, info.positives, info.negatives, info.scored) == (2, 3, 3, 1, 2)
    prepared = read_prepared(tmp_path / "out")
    assert prepared.info == info
    assert len(prepared) == 2
    assert list(prepared.examples()) == list(read_examples(tmp_path / "out")) == EXAMPLES
    heavy = dataclasses.replace(EXAMPLES[1], weight=-1.0)
    write_examples([heavy], tmp_path / "heavy")
    with pytest.raises(DataError, match=r"weight -1\.0 is not a finite number above 0"):
        list(read_examples(tmp_path / "heavy"))
    assert list(prepared.documents()) == [Document("a/d1", "x"), Document("a/d2/e", "y"), Document("b/d1", "z")]
    assert prepared.trained_documents() == {"a": {"d1"}, "b": {"d1"}}
    assert info.sources[0].source == "by hand"


def test_each_text_is_stored_once(tmp_path):
    many = [
        TrainingExample(Query(f"a/q{n}", f"query {n}"), (ExampleItem("a/d", "unique"),), (), "a") for n in range(50)
    ]
    write_examples(many, tmp_path / "out")
    stored = "".join(gzip.decompress(path.read_bytes()).decode() for path in (tmp_path / "out").glob("*.gz"))
    assert stored.count("unique") == 1


def test_equal_content_gives_equal_bytes(tmp_path):
    first, second = (write_examples(EXAMPLES, tmp_path / name) for name in "ab")
    other = write_examples(EXAMPLES[::-1], tmp_path / "c")
    assert first.fingerprint == second.fingerprint != other.fingerprint
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_interrupted_writing_leaves_nothing(tmp_path):
    def interrupted():
        yield EXAMPLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_examples(interrupted(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    write_examples(EXAMPLES, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        write_examples(interrupted(), tmp_path / "out", overwrite=True)
    assert list(read_examples(tmp_path / "out")) == EXAMPLES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_one_id_names_one_text(tmp_path):
    changed = TrainingExample(Query("a/q2", "three"), (ExampleItem("a/d1", "changed"),), (), "a")
    with pytest.raises(DataError, match="query 'a/q2': document 'a/d1' appeared earlier with a different text"):
        write_examples([EXAMPLES[0], changed], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("identity", ["d1", "/d1", "a/"])
def test_ids_name_their_source(tmp_path, identity):
    example = TrainingExample(Query("a/q", "x"), (ExampleItem(identity, "y"),), (), "a")
    with pytest.raises(DataError, match="is not of the form SOURCE/ID"):
        write_examples([example], tmp_path / "out")


def test_nothing_left_is_an_error(tmp_path):
    empty = TrainingExample(Query("a/q", "x"), (), (), "a")
    with pytest.raises(InputError, match="no training example is left; dropped: 1 no_positive"):
        write_examples([empty], tmp_path / "out")
    with pytest.raises(InputError, match="no training example is left; dropped: nothing"):
        write_examples([], tmp_path / "out")


def test_existing_folder(tmp_path):
    write_examples(EXAMPLES, tmp_path / "out")
    with pytest.raises(InputError, match="exists"):
        write_examples(EXAMPLES, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("x")
    with pytest.raises(InputError, match="holds 'precious'"):
        write_examples(EXAMPLES, tmp_path / "full", overwrite=True)
    (tmp_path / "empty").mkdir()
    write_examples(EXAMPLES, tmp_path / "empty")


def test_reading_other_folders(tmp_path):
    with pytest.raises(DataError, match=r"has no prepared\.json"):
        read_prepared(tmp_path)
    write_examples(EXAMPLES, tmp_path / "out")
    info = tmp_path / "out/prepared.json"
    values = json.loads(info.read_text())
    info.write_text(json.dumps(values | {"exmples": 3}))
    with pytest.raises(DataError, match="did you mean 'examples'"):
        read_prepared(tmp_path / "out")
    info.write_text(json.dumps(values | {"format": 99}))
    with pytest.raises(DataError, match="has format 99, this version reads 1"):
        read_prepared(tmp_path / "out")


def _rewrite(path, change):
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join(change(lines)).encode()))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("documents.jsonl.gz", lambda lines: lines[:-1], r"has 2 lines, but prepared.json lists 3"),
        ("examples.jsonl.gz", lambda lines: lines[:-1], r"has 1 lines, but prepared.json lists 2"),
        ("documents.jsonl.gz", lambda lines: [*lines[:2], "{}"], r"documents.jsonl.gz:3: no '_id' in a document"),
        ("examples.jsonl.gz", lambda lines: [lines[0], "{}"], r"examples.jsonl.gz:2: no 'query' in an example"),
        (
            "examples.jsonl.gz",
            lambda lines: [lines[0], lines[1].replace("b/d1", "b/d9")],
            r"examples.jsonl.gz:2: no 'b/d9' in an example",
        ),
        ("examples.jsonl.gz", lambda lines: [lines[0], "{"], r"examples.jsonl.gz:2: not valid JSON"),
    ],
)
def test_damage_is_noticed(tmp_path, file, change, message):
    write_examples(EXAMPLES, tmp_path / "out")
    _rewrite(tmp_path / "out" / file, change)
    with pytest.raises(DataError, match=message):
        list(read_examples(tmp_path / "out"))


def test_trained_documents(tmp_path):
    write_examples(EXAMPLES, tmp_path / "out")
    expected = {"a": {"d1"}, "b": {"d1"}}
    assert trained_documents(tmp_path / "out") == expected
    copy = tmp_path / "copy.json"
    copy.write_text((tmp_path / "out/trained_documents.json").read_text())
    assert trained_documents(copy) == expected
    assert trained_documents({"a": ["d1", "d1"], "b": iter(["d1"])}) == expected
    with pytest.raises(DataError, match="no such file"):
        trained_documents(tmp_path / "nothing.json")
    with pytest.raises(DataError, match=r"must hold an object \{collection"):
        trained_documents({"a": "d1"})
    copy.write_text("[]")
    with pytest.raises(DataError, match=r"copy\.json: must hold an object"):
        trained_documents(copy)


texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
items = st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=1, max_size=4)


@settings(max_examples=30)
@given(st.lists(st.tuples(texts, items), min_size=1, max_size=4))
def test_any_text_survives(tmp_path_factory, rows):
    examples = [
        TrainingExample(
            Query(f"s/q{number}", query),
            tuple(ExampleItem(f"s/{text}", text, score) for text, score in scored.items()),
            (),
            "s",
        )
        for number, (query, scored) in enumerate(rows)
    ]
    folder = tmp_path_factory.mktemp("prepared") / "out"
    write_examples(examples, folder)
    assert list(read_examples(folder)) == examples
