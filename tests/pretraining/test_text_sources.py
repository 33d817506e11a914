"""Texts out of every kind of source."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import sysconfig
import types
from pathlib import Path

import pytest

from hyperseek import HyperseekError
from hyperseek.errors import ConfigError, DataError, MissingExtraError
from hyperseek.pretraining import TextSourceConfig
from hyperseek.pretraining._texts import open_texts


def read(source: object, **options: object) -> list[str]:
    return list(open_texts("toy", TextSourceConfig(source=str(source), **options)).read())


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_lines_with_any_keys(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"body": "one", "head": "H"}, {"body": " "}, {"body": "two", "head": None}]
    )
    assert read(path) == ["one", "two"]
    assert read(path, text_key="body", title_key="head") == ["H one", "two"]
    assert read(path, limit=1) == ["one"]
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read(packed) == ["one", "two"]


def test_plain_text_is_divided_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n\nthree\n   \nfour\n")
    assert read(path) == ["one\ntwo", "three", "four"]
    assert read(path, divide="line") == ["one", "two", "three", "four"]
    assert read(path, divide="file") == [path.read_text()]


def test_settings_that_a_source_does_not_read_are_errors(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.txt").write_text("one")
    write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}])
    table = tmp_path / "table.tsv"
    table.write_text("1\tone\n")
    given = {"text_key": "body", "title_key": "head", "split": "test", "revision": "main", "divide": "line"}
    unread = {
        str(tmp_path / "plain"): ("plain text", {"text_key", "title_key", "split", "revision"}),
        str(tmp_path / "a.jsonl"): ("JSON lines", {"split", "revision", "divide"}),
        str(table): ("a collection", {"split", "revision", "divide"}),
        "pydocs": ("a collection", set(given)),
        f"hub:{tmp_path}": ("a Hub dataset", {"divide"}),
        f"mds:{tmp_path}": ("a folder of MDS shards", {"split", "revision", "divide"}),
    }
    for place, (kind, names) in unread.items():
        for name in names:
            with pytest.raises(ConfigError, match=f"is {kind}: {name} means nothing; leave it out"):
                open_texts("toy", TextSourceConfig(source=place, **{name: given[name]}))
    # A folder of both kinds reads the settings of both.
    write_jsonl(tmp_path / "plain" / "b.jsonl", [{"body": "two"}])
    (tmp_path / "plain" / "a.txt").write_text("one\nthree")
    assert read(tmp_path / "plain", text_key="body", divide="line") == ["one", "three", "two"]


def test_folders_and_patterns(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "deep" / "c.rst").write_text("third")
    (tmp_path / "ignored.py").write_text("code")
    assert read(tmp_path) == ["first", "second", "third"]
    assert read(f"{tmp_path}/*.md") == ["second"]
    assert read(f"{tmp_path}/**/*.rst") == ["third"]


def test_collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "a", "title": "T", "text": "one"}, {"_id": "b", "text": "two"}])
    assert read(tmp_path) == ["T one", "two"]
    table = tmp_path / "table.tsv"
    table.write_text("1\tone\n2\ttwo\n")
    assert read(table) == ["one", "two"]
    library = tmp_path / "library"  # a few of Python's modules: reading all takes seconds
    shutil.copytree(Path(sysconfig.get_path("stdlib")) / "json", library / "json")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(library))
    assert len(read("pydocs", limit=2)) == 2


def test_hub_data_sets_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "set"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [{"text": "one"}, {"text": "two"}])
    source = TextSourceConfig(source=f"hub:{folder}")
    first = open_texts("toy", source).fingerprint
    assert read(f"hub:{folder}") == ["one", "two"]
    write_jsonl(folder / "train.jsonl", [{"text": "one"}, {"text": "three"}])
    assert open_texts("toy", source).fingerprint != first
    with pytest.raises(HyperseekError, match="Hub"):
        read(f"hub:{folder}", split="nothing")


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    def fingerprint(name: str, text: str, **options: object) -> str:
        path = tmp_path / name
        path.write_text(text)
        return open_texts(name, TextSourceConfig(source=str(path), **options)).fingerprint

    assert fingerprint("a.txt", "one") == fingerprint("b.txt", "one")
    assert fingerprint("a.txt", "one") != fingerprint("a.txt", "two")
    assert fingerprint("a.txt", "one") != fingerprint("a.txt", "one", divide="line")


def test_mds_shards_need_their_package(tmp_path: Path) -> None:
    if "streaming" in sys.modules:
        pytest.skip("mosaicml-streaming is installed")
    with pytest.raises(MissingExtraError, match="--no-deps mosaicml-streaming"):
        open_texts("toy", TextSourceConfig(source=f"mds:{tmp_path}"))


def test_mds_shards_are_read_by_that_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class StreamingDataset:
        num_samples = 2

        def __init__(self, *, remote: str, local: str, shuffle: bool, batch_size: int) -> None:
            assert Path(local).is_dir()
            assert local != remote
            assert not shuffle
            asked.append(remote)

        def __getitem__(self, position: int) -> dict[str, str]:
            return {"text": f"sample {position}"}

    module = types.ModuleType("streaming")
    module.StreamingDataset = StreamingDataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "streaming", module)
    with pytest.raises(HyperseekError, match=r"holds no index\.json"):
        read(f"mds:{tmp_path}")
    (tmp_path / "index.json").write_text("{}")
    assert read(f"mds:{tmp_path}") == ["sample 0", "sample 1"]
    assert asked == [str(tmp_path)]
    with pytest.raises(HyperseekError, match=f"write 'mds:{tmp_path}'"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"x": "one"}], {}, r"a\.jsonl:1: no key with a usual name; set text_key to one of \['x'\]"),
        ([{"text": "one"}, {"text": 3}], {}, r"a\.jsonl:2: needs a string, has 3, for 'text'"),
        ([{"text": "one"}], {"text_key": "body"}, r"a\.jsonl:1: no value for 'body'; it has \['text'\]"),
        ([{"text": "one", "t": 1}], {"title_key": "t"}, "needs a string for 't'"),
    ],
)
def test_bad_records_name_file_and_line(
    tmp_path: Path, rows: list[object], options: dict[str, object], message: str
) -> None:
    with pytest.raises(HyperseekError, match=message):
        read(write_jsonl(tmp_path / "a.jsonl", rows), **options)


def test_bad_records_can_be_left_out(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": 3}, {"text": "two"}])
    assert read(path, on_error="skip") == ["one", "two"]


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere", "no such file or folder"), ("code.py", r"is not one of \.txt"), ("empty", "holds no file of")],
)
def test_what_is_no_source_is_an_error(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "code.py").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HyperseekError, match=message):
        read(tmp_path / place)


@pytest.mark.parametrize(("name", "content"), [("a.txt", ""), ("b.txt", "\n  \n"), ("c.jsonl", '{"text": " "}\n')])
def test_a_source_without_texts_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="holds no text"):
        list(open_texts("x", TextSourceConfig(source=str(tmp_path / name))).read())
