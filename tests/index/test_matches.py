"""What each token of a query found in a hit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperseek.index import Index
from hyperseek.models import LateRetriever, ModelConfig, build
from hyperseek.scoring import MaxSimScorer, Space, TokenPoints
from hyperseek.types import Document, Hit

DOCUMENTS = [
    Document("a", "the cat and the tree and the moon", title="stone"),
    Document("b", "a dog on the sun"),
    Document("c", "deep neural network weights search a vector index"),
    Document("d", "bird fish star leaf"),
]
QUERY = "the cat and the dogs"


def model(trunk: str, late: dict[str, Any] | None = None) -> LateRetriever:
    settings = {"dimension": 8, "skipped": ["and"], "query_expansion": {"length": 12}, **(late or {})}
    prompts = {"query": "search ", "document": "index "}
    config = ModelConfig(trunk=trunk, family="late", late=settings, prompts=prompts, document_length=16)
    return build(config, device="cpu")


def spelt(hit: Hit) -> list[tuple[str, str]]:
    return [(token.text, token.kind) for match in hit.matches for token in match.query]


@pytest.mark.parametrize("late", [{}, {"similarity": "meanmaxsim"}, {"query_expansion": None}])
@pytest.mark.parametrize("masking", ["exact", "pylate"])
def test_shares_sum_to_the_score(late: dict[str, Any], masking: Any, tiny_encoder: str, tmp_path: Path) -> None:
    retriever = model(tiny_encoder, late)
    retriever.masking = masking
    index = Index.build(tmp_path / "index", DOCUMENTS, retriever)
    for hit in index.search(QUERY, k=4):
        assert sum(match.share for match in hit.matches) == pytest.approx(hit.score, abs=1e-5)
        assert hit.matches is hit.matches


def test_tokens_are_named_and_placed(tiny_encoder: str, tmp_path: Path) -> None:
    retriever = model(tiny_encoder)
    index = Index.build(tmp_path / "index", DOCUMENTS, retriever)
    points = retriever.encode_documents([document.full_text for document in DOCUMENTS])
    scorer = retriever.compile([QUERY])
    for hit in index.search(QUERY, k=4):
        assert spelt(hit) == [
            ("[CLS]", "special"),
            ("search", "prompt"),
            *((word, "text") for word in ("the", "cat", "and", "the", "dog", "##s")),
            ("[SEP]", "special"),
            *[("[MASK]", "expansion")] * 3,
        ]
        words = [token for match in hit.matches for token in match.query if token.kind == "text"]
        assert [QUERY[token.start : token.end] for token in words] == ["the", "cat", "and", "the", "dog", "s"]
        place = [document.id for document in DOCUMENTS].index(hit.id)
        own = points[place : place + 1].vectors
        for match, query in zip(hit.matches, scorer.queries[0], strict=True):
            [token] = match.document
            assert match.vector == int((own @ query).argmax())
            assert match.similarity == pytest.approx(float((own @ query).max()), abs=1e-5)
            assert token.text != "and"
            if token.kind == "text":
                assert hit.document is not None
                assert hit.document.full_text[token.start : token.end] == token.text
            else:
                assert (token.text, token.kind) in {("[CLS]", "special"), ("[SEP]", "special"), ("index", "prompt")}
                assert token.start is None


def test_rows_of_a_document_are_its_tokens_without_those_that_are_skipped(tiny_encoder: str) -> None:
    rows = model(tiny_encoder).row_tokens("the cat and the " + "moon " * 30, "document")
    assert rows is not None
    said = [token.text for [token] in rows]
    assert said == ["[CLS]", "index", "the", "cat", "the", *["moon"] * 9, "[SEP]"]  # 16 tokens without one


@pytest.mark.parametrize("method", ["hierarchical", "k_means", "sequential", "attention"])
def test_a_pooled_vector_shows_all_its_tokens(method: str, tiny_encoder: str, tmp_path: Path) -> None:
    plain, pooled = model(tiny_encoder), model(tiny_encoder, {"pooling": {"method": method, "pool_factor": 3}})
    text = DOCUMENTS[0].full_text
    every = plain.encode_documents([text], dtype="float32").vectors
    rows = pooled.row_tokens(text, "document")
    vectors = pooled.encode_documents([text], dtype="float32").vectors
    names = plain.row_tokens(text, "document")
    assert rows is not None
    assert names is not None
    assert len(rows) == len(vectors) < len(every)
    places = {token: row for row, [token] in enumerate(names) if token.start is not None}
    for members, vector in zip(rows, vectors, strict=True):
        if all(token in places for token in members):
            torch.testing.assert_close(every[[places[token] for token in members]].mean(0), vector, atol=1e-5, rtol=0)
    if method != "attention":
        assert sum(map(len, rows)) == len(every)
    index = Index.build(tmp_path / "index", DOCUMENTS, pooled, dtype="float32")
    [hit, *_] = index.search("cat", k=1)
    assert all(match.document == rows[match.vector] for match in hit.matches if hit.id == "a")


@pytest.mark.parametrize("strategy", ["random", "attention"])
@pytest.mark.parametrize("pooling", [None, {"pool_factor": 2}])
def test_tokens_that_were_pruned_match_nothing(
    strategy: str, pooling: dict[str, Any] | None, tiny_encoder: str, tmp_path: Path
) -> None:
    pruning = {"strategy": strategy, "keep_ratio": 0.5, "min_tokens": 2}
    pruning |= {"importance": "first_layer"} if strategy == "attention" else {}
    retriever = model(tiny_encoder, {"pruning": pruning, "pooling": pooling, "skipped": [], "query_expansion": None})
    text = DOCUMENTS[0].full_text
    rows = retriever.row_tokens(text, "document")
    points = retriever.encode_documents([text], dtype="float32")
    [read] = retriever.tokenize([text], "document")["input_ids"].tolist()
    names = [str(name) for name in retriever.model.tokenizer.convert_ids_to_tokens(read)]
    assert rows is not None
    assert len(rows) == len(points.rows)
    kept = [token for row in rows for token in row]
    assert len(kept) < len(names)
    assert all(text[token.start : token.end] == token.text for token in kept if token.start is not None)
    if pooling is None:
        left = iter(names)
        assert all(token.text in left for token in kept)  # in their order
        index = Index.build(tmp_path / "index", DOCUMENTS, retriever, dtype="float32")
        assert all(match.document for hit in index.search("cat", k=4) for match in hit.matches)


@pytest.mark.parametrize("own", [None, {"pool_factor": 2}])
def test_a_vector_that_an_index_pooled_shows_all_its_tokens(
    own: dict[str, Any] | None, tiny_encoder: str, tmp_path: Path
) -> None:
    retriever = model(tiny_encoder, {"pooling": own})
    index = Index.build(tmp_path / "index", DOCUMENTS, retriever, dtype="float32", pooling={"pool_factor": 2})
    [(ids, points)] = index.points()
    every = model(tiny_encoder)
    for place, vectors in enumerate(torch.split(points.rows, points.lengths.tolist())):
        text = index[ids[place]].full_text
        rows = retriever.row_tokens(text, "document", pooling=index.info.pooling)
        names = every.row_tokens(text, "document")
        assert rows is not None
        assert names is not None
        assert len(rows) == len(vectors) < len(names)
        assert sorted(str(token) for row in rows for token in row) == sorted(str(token) for [token] in names)
    hits = index.search(QUERY, k=4)
    assert max(len(match.document) for hit in hits for match in hit.matches) > 1


def test_what_is_not_known_is_left_out(tiny_encoder: str, tmp_path: Path) -> None:
    retriever = model(tiny_encoder)
    scorer = retriever.compile([QUERY])
    points = retriever.encode_documents([document.full_text for document in DOCUMENTS])
    vectors = torch.split(points.vectors, points.lengths.tolist())
    # One vector is missing, so the others are not those of the tokens that the model reads.
    items = [(document, own[1:]) for document, own in zip(DOCUMENTS, vectors, strict=True)]
    items.append((Document("empty", ""), torch.zeros(0, 8)))
    Index.from_vectors(tmp_path / "index", items, retriever.space)
    with_model = Index.open(tmp_path / "index", model=None)
    for hit in with_model.search(scorer, k=5)[0]:
        assert all(match.query == match.document == () for match in hit.matches)
        assert len(hit.matches) == (0 if hit.id == "empty" else 12)
        assert sum(match.share for match in hit.matches) == pytest.approx(hit.score if hit.matches else 0, abs=1e-5)


def test_weights_of_query_tokens_are_in_their_shares(tmp_path: Path) -> None:
    space = Space("tokens", 2)
    documents = TokenPoints.from_documents([torch.tensor([[1.0, 0.0], [0.6, 0.8]])])
    scorer = MaxSimScorer(space, torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]]), torch.tensor([[2.0, 0.5, 0.0]]))
    rows, similarities, shares = scorer.matches(documents)
    assert rows.tolist() == [[0, 1, -1]]
    assert similarities.tolist() == [[1.0, pytest.approx(0.8), 0.0]]
    assert shares.sum().item() == pytest.approx(scorer.score(documents).item()) == pytest.approx(2.4)


def test_hits_without_tokens_and_copies_of_hits_have_no_matches(tiny_encoder: str, tmp_path: Path) -> None:
    space = Space("dot", 2)
    dense = Index.from_vectors(tmp_path / "dense", [(Document("a", "text"), [1.0, 0.0])], space)
    [[hit]] = dense.search(torch.eye(2)[:1], k=1)
    assert hit.matches == ()
    index = Index.build(tmp_path / "late", DOCUMENTS, model(tiny_encoder))
    [hit] = index.search(QUERY, k=1)
    del index  # the hit keeps what it needs
    copied = copy.deepcopy(hit)
    assert copied == hit
    assert copied.matches == ()
    assert hit.matches
