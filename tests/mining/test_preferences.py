"""Preferences of teachers: fusion, candidates, pairs and lists, and scores that survive a kill."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mining_fakes import ReadableRetriever
from typer.testing import CliRunner

from hyperseek._relevance import text_key
from hyperseek.cli import app
from hyperseek.data import open_dataset, read_examples, read_prepared
from hyperseek.errors import DataError, InputError, MissingDocumentError, UnknownNameError
from hyperseek.index import Index
from hyperseek.mining import BM25, PreferenceOptions, fuse_scores, preference_pairs, prepare_preferences
from hyperseek.types import Document, QueryOptions

EVERYTHING = {"bm25": 0, "dense": 0, "candidates": 50}


class ByNumber:
    """Scores a document by the number after `!`, and stops after some calls, as a killed program does."""

    def __init__(self, name: str = "numbers", sign: float = 1.0, stop_after: int | None = None) -> None:
        self.name, self.sign, self.stop_after = name, sign, stop_after
        self.asked: list[tuple[str, str]] = []

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.extend(pairs)
        return [self.sign * float(re.findall(r"!(-?[\d.]+)", text)[0]) for _, text in pairs]


class TogetherByNumber(ByNumber):
    """The same, for whole lists: a document's score is the share of the list that it beats."""

    def score_lists(self, queries: Sequence[str], lists: Sequence[Sequence[str]]) -> list[list[float]]:
        scores = []
        for query, own in zip(queries, lists, strict=True):
            numbers = self.score_pairs([(query, text) for text in own])
            scores.append([sum(number > other for other in numbers) / len(numbers) for number in numbers])
        return scores


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """30 documents, numbered by how good they are, and 20 queries; d29 is relevant to q1."""
    folder = tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "text": f"0.{n:02}@1 word{n % 7} river !{n}"} for n in range(30)]
    queries = [{"_id": f"q{n}", "text": f"about 1 word{n % 7} {n}"} for n in range(20)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    (folder / "qrels/train.tsv").write_text("".join(f"q{n}\td{29 if n == 1 else 3}\t{n % 2}\n" for n in range(20)))
    (folder / "qrels/test.tsv").write_text("q3\td3\t1\n")
    (folder / "qrels/test-binary.tsv").write_text("q3\td3\t1\n")
    return folder


def test_reciprocal_ranks_are_fused_as_the_original_does(golden: Path) -> None:
    recorded = json.loads((golden / "hydra/golden.json").read_text())["rrf"]
    fused = fuse_scores(recorded["scores"], recorded["weights"], rrf_k=recorded["k"])
    np.testing.assert_allclose(fused, recorded["fused"], atol=1e-12)


def test_pairs_are_drawn_as_the_original_does(golden: Path) -> None:
    recorded = json.loads((golden / "hydra/golden.json").read_text())["preference_pairs"]
    scores, given = recorded["teacher_scores"], recorded["args"]
    draw, found = random.Random(given["seed"]), []
    for query in ("qa", "qb"):
        ids = draw.sample(range(len(scores)), given["candidates_per_query"])
        own = [scores[one] for one in ids]
        pairs = preference_pairs(
            own, pairs=given["pairs_per_query"], hard_ratio=given["hard_negative_ratio"], draw=draw
        )
        found += [[query, f"doc{ids[pair.better]}", f"doc{ids[pair.worse]}", pair.weight, "t"] for pair in pairs]
    assert [one[:3] for one in found] == [one[:3] for one in recorded["pairs"]]
    np.testing.assert_allclose([one[3] for one in found], [one[3] for one in recorded["pairs"]], atol=1e-12)


def test_scores_are_fused() -> None:
    scores = [[0.0, 1.0, 2.0], [10.0, 10.0, 0.0]]
    np.testing.assert_allclose(fuse_scores(scores, [1, 3], method="minmax"), [0.75, 0.875, 0.25])
    # Equal scores share a rank, so that the order of the documents does not matter.
    np.testing.assert_allclose(fuse_scores(scores, rrf_k=1), [1 / 4 + 1 / 2.5, 1 / 3 + 1 / 2.5, 1 / 2 + 1 / 4])
    standard = fuse_scores(scores, method="zscore")
    spread = np.sqrt(2 / 3)
    np.testing.assert_allclose(standard[0], (-1 / spread + 1 / np.sqrt(2)) / 2)
    np.testing.assert_array_equal(fuse_scores([[0.1] * 3, [1, 2, 3]], [1, 0], method="zscore"), np.zeros(3))
    for weights in ([1], [1, -1], [0, 0], [1, float("nan")]):
        with pytest.raises(InputError, match="weight"):
            fuse_scores(scores, weights)


def test_pairs_have_weights_that_differ(words: Path, tmp_path: Path) -> None:
    options = PreferenceOptions(**EVERYTHING, pairs=6)
    info = prepare_preferences(words, tmp_path / "out", teachers=[ByNumber(), "bm25"], options=options)
    examples = list(read_examples(tmp_path / "out"))
    assert info.examples == len(examples) > 60
    weights = [one.weight for one in examples]
    assert len(set(weights)) > 20
    assert 0 < min(weights) < 0.2 < 0.6 < max(weights) < 1
    told = info.options["preferences"]
    assert told["weights_given"]["highest"] == max(weights)
    assert [one["name"] for one in told["teachers"]] == ["numbers", "bm25"]
    for one in examples:
        [better], [worse] = one.positives, one.negatives
        assert better.id != worse.id
        if one.query.id == "words/q1":  # its relevant document is the only positive
            assert (better.id, better.grade) == ("words/d29", 1)
    # Wider differences of scores are surer: by the first teacher alone, weights follow the numbers.
    options = PreferenceOptions(**EVERYTHING, judged=False, form="pairs")
    prepare_preferences(words, tmp_path / "one", teachers=[ByNumber()], options=options)
    rows = [(one.weight, *(int(item[0].text.split("!")[1]) for item in (one.positives, one.negatives)))
            for one in read_examples(tmp_path / "one")]  # fmt: skip
    by_margin = sorted(rows, key=lambda row: row[1] - row[2])
    assert [row[0] for row in by_margin] == pytest.approx(sorted(row[0] for row in rows))
    assert {row[1] for row in rows} == {27, 28, 29}  # the best three
    assert not {row[2] for row in rows} & {25, 26}  # those after them may be relevant
    same = prepare_preferences(words, tmp_path / "same", teachers=[ByNumber()], options=options)
    assert same == read_prepared(tmp_path / "one").info


def test_teachers_that_contradict_each_other_prefer_nothing(words: Path, tmp_path: Path) -> None:
    options = PreferenceOptions(**EVERYTHING)
    opposite = ByNumber("opposite", -1.0)
    with pytest.raises(InputError, match=r"no training example is left; dropped: 20 no_confident_preference"):
        prepare_preferences(words, tmp_path / "out", teachers=[ByNumber(), opposite], options=options)
    heavier = options.model_copy(update={"weights": (3.0, 1.0), "least_confidence": 0.4})
    prepare_preferences(words, tmp_path / "out", teachers=[ByNumber(), opposite], options=heavier)
    assert all(0.4 < one.weight < 0.5 for one in read_examples(tmp_path / "out"))  # at most (3 - 1) / 4


def test_lists(words: Path, tmp_path: Path) -> None:
    options = PreferenceOptions(**EVERYTHING, form="lists", negatives=8, task="numbers")
    prepare_preferences(words, tmp_path / "out", teachers=[TogetherByNumber()], options=options)
    examples = {one.query.id: one for one in read_examples(tmp_path / "out")}
    one = examples["words/q2"]
    assert [item.text.split("!")[1] for item in one.positives] == ["29", "28", "27"]
    scores = [item.score for item in one.negatives if item.score is not None]
    assert len(scores) == 8
    assert scores == sorted(scores, reverse=True)
    assert one.task == "numbers"
    assert 0 < one.weight < 1
    assert [item.id for item in examples["words/q1"].positives] == ["words/d29"]
    # q3 is relevant to d3, which no teacher likes: no confidence, no example.
    assert "words/q3" not in examples
    # But what is relevant to it is remembered.
    known = read_prepared(tmp_path / "out").relevance()
    assert known.of(text_key("about 1 word3 3")) == {text_key("0.03@1 word3 river !3")}


def test_hydra_draws_with_repetition_and_weighs_by_margin(words: Path, tmp_path: Path) -> None:
    options = PreferenceOptions(**EVERYTHING, sampling="hydra", fusion="rrf", pairs=30)
    prepare_preferences(words, tmp_path / "out", teachers=[ByNumber()], options=options)
    assert {one.weight for one in read_examples(tmp_path / "out")} == {0.1}  # no difference of ranks is larger


def test_candidates_come_from_words_an_index_and_chance(words: Path, tmp_path: Path) -> None:
    model = ReadableRetriever()
    index = Index.build(tmp_path / "index", open_dataset(words).documents(), model)  # type: ignore[arg-type]
    teacher = TogetherByNumber()
    options = PreferenceOptions(bm25=2, dense=3, candidates=8)
    prepare_preferences(words, tmp_path / "out", teachers=[teacher, "dense"], dense=index, options=options)
    asked = [text for query, text in teacher.asked if query == "about 1 word0 0"]
    numbers = [int(text.split("!")[1]) for text in asked]
    assert len(numbers) == len(set(numbers)) == 8
    assert {29, 28, 27} < set(numbers)  # the index finds the largest number before @1
    assert sum(number % 7 == 0 for number in numbers) >= 2  # those with its word
    short = tmp_path / "short"
    short.mkdir()
    (short / "corpus.jsonl").write_text(json.dumps({"_id": "d0", "text": "something else"}) + "\n")
    other = Index.build(tmp_path / "other", open_dataset(short).documents(), model)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has other texts than 'words'"):
        prepare_preferences(words, tmp_path / "no", teachers=["dense"], dense=other)


def test_a_card_is_known_by_its_content(words: Path, tmp_path: Path) -> None:
    class Understanding(ReadableRetriever):
        def check_options(self, options: QueryOptions) -> QueryOptions:
            return QueryOptions(card=Path(options["card"]).read_text())

    model, card = Understanding(), tmp_path / "card.yaml"
    index = Index.build(tmp_path / "index", open_dataset(words).documents(), model)  # type: ignore[arg-type]
    options, recorded = PreferenceOptions(bm25=0, options={"card": str(card)}), []
    for content in ("one", "two"):
        card.write_text(content)
        info = prepare_preferences(words, tmp_path / content, teachers=["dense"], dense=index, options=options)
        recorded.append(info.options["preferences"])
    assert [one["options"] for one in recorded] == [{"card": "one"}, {"card": "two"}]
    assert len({one["teachers"][0]["fingerprint"] for one in recorded}) == 2


@pytest.mark.parametrize("kind", [ByNumber, TogetherByNumber])
def test_a_killed_run_asks_only_for_what_is_missing(words: Path, tmp_path: Path, kind: type[ByNumber]) -> None:
    options = PreferenceOptions(**EVERYTHING)
    whole = kind()
    expected = prepare_preferences(words, tmp_path / "whole", teachers=[whole], options=options)
    killed = kind(stop_after=16 * 30)  # the first batch
    with pytest.raises(KeyboardInterrupt, match=r"scores so far are kept in .*run the same command again"):
        prepare_preferences(words, tmp_path / "out", teachers=[killed], options=options)
    assert not (tmp_path / "out").exists()
    resumed = kind()
    info = prepare_preferences(words, tmp_path / "out", teachers=[resumed], options=options)
    assert info.fingerprint == expected.fingerprint
    assert sorted(killed.asked + resumed.asked) == sorted(whole.asked)
    assert 0 < len(resumed.asked) < len(whole.asked)
    assert not list(tmp_path.glob(".out*"))


def test_scores_are_kept_for_other_runs(words: Path, tmp_path: Path) -> None:
    options, kept = PreferenceOptions(**EVERYTHING), tmp_path / "scores"
    first, again = ByNumber(), ByNumber()
    prepare_preferences(words, tmp_path / "a", teachers=[first], options=options, scores=kept)
    other = options.model_copy(update={"form": "lists"})
    prepare_preferences(words, tmp_path / "b", teachers=[again, ByNumber("another")], options=other, scores=kept)
    assert first.asked
    assert not again.asked
    assert {json.loads(path.read_text())["teacher"] for path in kept.glob("*/teacher.json")} == {"numbers", "another"}
    part = next(kept.glob("*/*.parquet"))
    table = pq.read_table(part)
    assert table.column_names == ["query", "document", "key", "score"]
    assert table["document"][0].as_py().startswith("d")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"\.parquet is damaged.*delete it, and its scores are asked for again"):
        prepare_preferences(words, tmp_path / "c", teachers=[again, ByNumber("another")], scores=kept)


def test_what_preferences_are_not_made_of(words: Path, tmp_path: Path) -> None:
    for split in ("test", "test-binary"):
        with pytest.raises(InputError, match=f"'{split}' of words is for measuring.*insist with"):
            prepare_preferences(f"{words}:{split}", tmp_path / "out", teachers=["bm25"])
    prepare_preferences(
        f"{words}:test", tmp_path / "out", teachers=["bm25"], allow_test=True, options=PreferenceOptions(judged=False)
    )
    with pytest.raises(UnknownNameError, match="split of words 'trian'; did you mean 'train'"):
        prepare_preferences(f"{words}:trian", tmp_path / "no", teachers=["bm25"])
    with pytest.raises(InputError, match="a list of teachers"):
        prepare_preferences(words, tmp_path / "no", teachers=[])
    with pytest.raises(InputError, match="the teacher 'dense' is the model of an index"):
        prepare_preferences(words, tmp_path / "no", teachers=["dense"])
    with pytest.raises(InputError, match="options are for the model of an index"):
        prepare_preferences(words, tmp_path / "no", teachers=["bm25"], options=PreferenceOptions(options={"level": 2}))
    with pytest.raises(InputError, match="1 teachers and 2 weights"):
        prepare_preferences(words, tmp_path / "no", teachers=["bm25"], options=PreferenceOptions(weights=(1, 2)))

    class Silent(ByNumber):
        def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
            return [float("nan")] * len(pairs)

    with pytest.raises(InputError, match="gave nan for the query"):
        prepare_preferences(words, tmp_path / "no", teachers=[Silent()])


def test_bm25_scores_given_documents() -> None:
    ranker = BM25([Document("a", "red river"), Document("b", "blue river"), Document("c", "stone")])
    run = ranker.run({"q": "red river"})["q"]
    assert ranker.scores(["red river", "stone"], [["c", "b", "a"], []]) == [[0.0, run["b"], run["a"]], []]
    with pytest.raises(MissingDocumentError, match="'z' is not in the corpus"):
        ranker.scores(["red"], [["z"]])


def test_on_the_command_line(words: Path, tmp_path: Path, tiny_encoder: str) -> None:
    out = tmp_path / "out"
    arguments = ["prepare", "preferences", str(words), "--teacher", "bm25", "--teacher", tiny_encoder, "-o", str(out)]
    result = CliRunner().invoke(app, [*arguments, "pairs=2", "judged=false", "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.stderr
    assert "median weight 0." in result.stderr
    assert json.loads(result.stdout)["options"]["preferences"]["pairs"] == 2
    assert {one.source for one in read_examples(out)} == {"words"}
