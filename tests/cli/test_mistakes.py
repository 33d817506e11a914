"""Plausible mistakes with every verb end with exit code 2 and one line that is no traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hyperseek.cli import main
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.types import Document

MISTAKES = """
nonsense
search
demo {file}
search nowhere text
search {index} text --queries {queries}
search {index}
search {index} --queries nowhere.tsv
search {index} --queries {empty}
search {index} --queries {folder}
search {index} --queries {binary}
search {file} text
search {folder} text
search {index} text -k 0
search {index} text --top-k many
search {index} text --format xml
search {index} text --where n>
search {index} text --where other=1
search {index} text --engine hnsw
search {index} text --plan nowhere.yaml
search {index} text --plan {empty}
search {index} text --plan {folder}
search {index} text --plan {queries} --hybrid
search {index} text --model nowhere/at/all
search {index} text --device cuda:99
search {index} text --device nothing
encode
encode {model} {queries}
encode {model} nowhere -i {new}
encode {model} nowhere.jsonl -i {new}
encode {model} {empty} -i {new}
encode {model} {folder} -i {new}
encode {model} {queries} -i {file}
encode {model} {queries} -i {file}/below
encode {model} {queries} -i {new} --limit 0
encode {model} {queries} -i {new} --storage int8
encode {model} {queries} -i {new} --engine nothing
encode {folder} {queries} -i {new}
encode {file} {queries} -i {new}
encode ./nowhere {queries} -i {new}
update
update {index}
update nowhere --compact
update nowhere --compact
update nowhere --delete d0
update {index} --add nowhere.jsonl
update {index} --add {empty}
update {index} --delete-file nowhere
update {index} --engine nothing
update {index} --graph --import-graph {queries}
update {index} --import-graph nowhere
update {index} --import-graph {empty}
update {index} --max-gigabytes 1
evaluate
evaluate {index}
evaluate {index} nowhere
evaluate nowhere {folder}
evaluate --runs nowhere --qrels nowhere
evaluate --runs {empty} --qrels {empty}
evaluate --runs {folder} --qrels {folder}
evaluate --runs {binary} --qrels {binary}
evaluate --runs {queries} --qrels {queries} -m nothing
evaluate --runs {queries} --qrels {queries} --confidence 2
inspect index
inspect index nowhere
inspect index {file}
inspect recall {index}
inspect recall {index} --queries nowhere
inspect recall {index} --queries {queries} --target 2
inspect recall {index} --queries {empty}
inspect space nowhere
inspect space {index} --by nothing
inspect space {index} --hierarchy nowhere
inspect nothing
convert
convert nowhere {new}
convert {folder} {new}
convert {file} {new}
prepare
prepare {new}
prepare {new} nowhere
prepare {new} {empty}
prepare {new} {folder}
prepare {file} {folder}
prepare --beir {new} nowhere
prepare {new} {folder} --maximum-positives 3
prepare {new} {folder} qrels.nothing=3
prepare {new} nothing:nowhere
mine
mine nowhere {new}
mine {folder} {new} {index}
mine nowhere {new} nowhere mining.nothing=3
train
train nowhere.yaml
train {empty}
train {folder}
train {binary}
train qnet-minilm-pydoc
train qnet-minilm-pydocs train.nothing=1
train qnet-minilm-pydocs nothing
pretrain
pretrain nowhere.yaml
pretrain {empty}
pretrain qnet-minilm-pydocs
recipes nowhere
recipes {folder}
""".strip().splitlines()


def test_every_mistake_is_one_line_and_exit_code_2(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {name: tmp_path / name for name in ("index", "folder", "file", "empty", "binary", "queries", "new")}
    Index.build(places["index"], [Document("d0", "the cat"), Document("d1", "moon")], load(tiny_encoder, device="cpu"))
    places["folder"].mkdir()
    places["file"].write_text("a file\n")
    places["empty"] = tmp_path / "empty.jsonl"
    places["empty"].touch()
    places["binary"].write_bytes(bytes(range(256)))
    places["queries"] = tmp_path / "queries.tsv"
    places["queries"].write_text("q1\tthe cat\n")
    wrong = []
    capfd.readouterr()
    for mistake in MISTAKES:
        arguments = [part.format(model=tiny_encoder, **places) for part in mistake.split()]
        monkeypatch.setattr(sys, "argv", ["hyperseek", *arguments])
        try:
            main()
            code: object = 0
        except SystemExit as stopped:
            code = stopped.code
        except BaseException as error:
            code = repr(error)[:200]
        output, errors = capfd.readouterr()
        told = [line for line in errors.splitlines() if line.startswith("hyperseek: ")]
        one_line = len(told) == 1 or errors.lstrip().startswith("Usage:")  # Typer draws a box
        if code != 2 or not one_line or "Traceback" in errors or output:
            wrong.append(f"{mistake} -> {code}: {output[-100:]!r} {errors[-300:]!r}")
    assert not wrong, "\n".join(wrong)
