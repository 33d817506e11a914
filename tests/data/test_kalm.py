"""KaLM's form: what is read, what is left out by name, and which examples a limit keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hyperseek.data import ErrorReport, KalmOptions, PrepareOptions, examples_from_kalm, prepare
from hyperseek.data.tables import instructed
from hyperseek.errors import DataError, InputError

Write = Callable[..., Path]
QUERY = "Instruct: Given a question, find answers.\nQuery: what is it"


def row(number: int) -> dict[str, object]:
    return {"query": f"query {number}", "pos": [f"answer {number}"], "neg": [f"other {number}"]}


@pytest.fixture
def folder(tmp_path: Path, write_lines: Write) -> Path:
    for number, name in enumerate(("nq", "fever", "arxiv_qa")):
        (tmp_path / "kalm" / name).mkdir(parents=True)
        write_lines(f"kalm/{name}/train.jsonl", [row(10 * number + one) for one in range(4)])
    return tmp_path / "kalm"


def test_rows_become_examples_with_their_instruction_beside() -> None:
    rows = [{"query": QUERY, "pos": ["a", "b"], "neg": None}]
    (example,) = examples_from_kalm(rows, name="k")
    assert example.query.text == QUERY
    assert QUERY.removeprefix(example.query.metadata["instruction"]) == "what is it"
    assert [item.text for item in example.positives] == ["a", "b"]
    assert example.negatives == ()


def test_excluded_data_sets_are_not_read(folder: Path) -> None:
    report = ErrorReport()
    examples = list(examples_from_kalm(folder, options=KalmOptions(exclude=("FEVER", "nq/")), report=report))
    assert [example.query.text for example in examples] == [f"query {20 + one}" for one in range(4)]
    assert report.counts == {"excluded_file": 2}
    assert report.examples["excluded_file"] == ["fever/train.jsonl", "nq/train.jsonl"], "in order"


def test_names_that_leave_out_nothing_or_everything_are_errors(folder: Path) -> None:
    with pytest.raises(DataError, match="'msmarco', which is in no path"):
        list(examples_from_kalm(folder, options=KalmOptions(exclude=("msmarco",))))
    with pytest.raises(DataError, match="leaves out all 3"):
        list(examples_from_kalm(folder, options=KalmOptions(exclude=("train",))))
    with pytest.raises(InputError, match="exclude"):
        list(examples_from_kalm([row(0)], options=KalmOptions(exclude=("nq",))))


def test_a_limit_draws_from_all_sources_by_seed(folder: Path) -> None:
    def drawn(seed: int) -> list[str]:
        options = KalmOptions(max_train_examples=5, seed=seed)
        return [example.query.text for example in examples_from_kalm(folder, options=options)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(drawn(1)) == 5
    everything = [example.query.text for example in examples_from_kalm(folder)]
    assert [text for text in everything if text in drawn(1)] == drawn(1), "in the order of the files"
    counts = dict.fromkeys(everything, 0)
    for seed in range(400):
        for text in drawn(seed):
            counts[text] += 1
    # Of 400 draws of 5 in 12, each is in 167 on average, with a standard deviation below 10.
    assert all(120 < count < 215 for count in counts.values())


def test_files_of_the_hub_are_chosen_before_they_are_downloaded(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked: list[str] = []

    def download(name: str, path: str) -> Path:
        asked.append(path)
        return folder / path

    paths = ["README.md", *(str(file.relative_to(folder)) for file in sorted(folder.rglob("*.jsonl")))]
    monkeypatch.setattr(instructed, "hub_paths", lambda name: paths)
    monkeypatch.setattr(instructed, "hub_file", download)
    options = KalmOptions(exclude=("fever",))
    examples = list(examples_from_kalm("hub:KaLM/finetuning", options=options))
    assert asked == ["arxiv_qa/train.jsonl", "nq/train.jsonl"]
    assert {example.source for example in examples} == {"KaLM-finetuning"}
    with pytest.raises(InputError, match="train"):
        list(examples_from_kalm("hub:KaLM/finetuning", split="test"))


def test_bad_rows_name_their_file(folder: Path, write_lines: Write) -> None:
    write_lines("kalm/nq/train.jsonl", [row(0), {"query": "q", "pos": 3}])
    with pytest.raises(DataError, match=r"nq/train\.jsonl.*'pos' must hold a list"):
        list(examples_from_kalm(folder))
    with pytest.raises(DataError, match="'query' must hold a text"):
        list(examples_from_kalm([{"pos": ["a"]}]))


def test_prepare_reads_and_reports_it(folder: Path, tmp_path: Path) -> None:
    options = PrepareOptions(kalm=KalmOptions(exclude=("fever",), max_train_examples=6))
    info = prepare(tmp_path / "out", [f"small=kalm:{folder}"], options=options)
    assert (info.examples, info.sources[0].kind, info.sources[0].name) == (6, "kalm", "small")
    assert info.dropped.counts == {"excluded_file": 1, "over_max_train_examples": 2}
