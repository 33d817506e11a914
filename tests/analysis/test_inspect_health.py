"""The health of an index: hubs, directions, duplicates, and the ranks they take."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperseek import Document, Index, load
from hyperseek.analysis import inspect_health
from hyperseek.analysis._duplicates import _hashed, find_duplicates
from hyperseek.analysis._health import measure_directions
from hyperseek.data import Dataset, open_dataset
from hyperseek.errors import InputError, WriteError
from hyperseek.models import ModelConfig, build
from hyperseek.scoring import Space
from hyperseek.types import Query

WORDS = [f"word{number}" for number in range(400)]


def text(seed: int, count: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def test_directions_of_known_clouds():
    generator = torch.Generator().manual_seed(0)
    ball = torch.randn(4000, 16, generator=generator)
    even = measure_directions(ball)
    assert abs(even.cosine) < 0.01
    assert even.effective_rank == pytest.approx(16, rel=0.02)
    assert even.isotropy > 0.97
    cone = measure_directions(ball + 10)
    assert cone.cosine > 0.95
    assert cone.isotropy > 0.97  # a shift moves the mean and leaves the covariance
    line = measure_directions(torch.randn(4000, 1, generator=generator) * torch.ones(1, 16))
    assert line.effective_rank == pytest.approx(1, abs=1e-4)
    assert line.isotropy < 1e-6
    brute = torch.nn.functional.normalize(ball[:50].double() + 1, dim=1)
    pairs = (brute @ brute.T)[~torch.eye(50, dtype=torch.bool)]
    assert measure_directions(ball[:50] + 1).cosine == pytest.approx(float(pairs.mean()), abs=1e-6)


@pytest.mark.parametrize("kind", ["dot", "euclidean", "lorentz"])
def test_a_hub_is_found_in_flat_and_curved_spaces(tmp_path, kind):
    generator = torch.Generator().manual_seed(1)
    around = torch.nn.functional.normalize(torch.randn(60, 24, generator=generator), dim=1)
    vectors = torch.cat([torch.zeros(1, 24), around])  # the origin is nearest to all others
    if kind == "lorentz":
        vectors = torch.cat([(1 + vectors.double().square().sum(dim=1, keepdim=True)).sqrt(), vectors.double()], dim=1)
    pairs = [(Document(f"d{place}", text(place)), vector.numpy()) for place, vector in enumerate(vectors)]
    report = inspect_health(Index.from_vectors(tmp_path / "index", pairs, Space(kind, 24)), k=1)
    near = report.hubness[0]
    assert near.hubs[0].id == "d0"
    assert near.hubs[0].count > 40
    assert near.skewness > 5
    assert near.never > 0.6
    assert report.directions.dimension == 24  # in hyperbolic spaces tangents, not stored points
    assert "hubs near queries" in report.left_out


def test_equal_and_nearly_equal_texts_are_found():
    documents = [Document(f"d{place}", text(place)) for place in range(200)]
    words = text(7).split()
    documents += [
        Document("same", f"  {text(3).upper()} "),
        Document("near", " ".join([*words[:-1], "other"])),
        Document("half", " ".join([*words[:30], *text(999, 30).split()])),
        Document("short", "a word"), Document("short too", "a word"),
    ]  # fmt: skip
    found = find_duplicates(documents)
    assert (found.equal, found.near) == (2, 1)
    assert sorted(map(tuple, found.groups)) == [("d3", "same"), ("d7", "near"), ("short", "short too")]
    run = {"q": {"d3": 3.0, "same": 2.0, "d1": 1.0}, "r": {"d1": 1.0}}
    ranked = find_duplicates(documents, run=run, k=10)
    assert (ranked.taken, ranked.queries) == (pytest.approx(1 / 4), 1)
    none = find_duplicates(documents, run=run, k=1)
    assert (none.taken, none.queries) == (0.0, 0)


def test_near_duplicates_equal_those_of_all_pairs():
    draw = random.Random(5)
    documents = []
    for place in range(40):
        words = text(place, 80).split()
        documents.append(Document(f"d{place}", " ".join(words)))
        for _ in range(draw.randint(0, 3)):
            words[draw.randrange(80)] = "changed"
        documents.append(Document(f"e{place}", " ".join(words)))
    hashed = [set(_hashed(document.text).tolist()) for document in documents]
    expected = {
        (documents[a].id, documents[b].id)
        for a in range(80)
        for b in range(a + 1, 80)
        if len(hashed[a] & hashed[b]) >= 0.8 * len(hashed[a] | hashed[b])
    }
    found = find_duplicates(documents)
    assert {tuple(group) for group in found.groups} == expected
    assert 10 < len(expected) < 40


def test_boilerplate_does_not_compare_every_pair():
    documents = [Document(f"d{place}", "the same old text again and again") for place in range(3)]
    documents += [Document(f"x{place}", f"{text(1)} {place}") for place in range(3000)]
    found = find_duplicates(documents)
    assert (found.equal, found.near) == (2, 2999)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> tuple[Index, Dataset]:
    names = "cat dog bird fish sea sun moon star tree leaf river stone city road house door window table music song"
    words = names.split()
    texts = [" ".join(random.Random(seed).choices(words, k=8)) for seed in range(80)]
    documents = [Document(f"d{place}", one) for place, one in enumerate([*texts, texts[0]])]
    queries = [Query(f"q{place}", one) for place, one in enumerate(texts[:20])]
    qrels = {"test": {f"q{place}": {f"d{place}": 1} for place in range(20)}}
    dataset = Dataset.from_records("toys", documents, queries=queries, qrels=qrels)
    folder = tmp_path_factory.mktemp("health") / "index"
    return Index.build(folder, documents, load(tiny_encoder)), dataset


def test_a_report_with_queries_and_its_files(built, tmp_path):
    index, dataset = built
    report = inspect_health(index, dataset=dataset, k=5, output=tmp_path)
    documents, queries = report.hubness
    assert (documents.of, documents.count, queries.of, queries.count) == ("documents", 81, "queries", 20)
    assert sum(hub.count for hub in queries.hubs) <= 100
    assert queries.hubs[0].relevant is not None
    assert report.duplicates.equal == 1
    assert report.duplicates.queries is not None
    assert report.duplicates.queries >= 1  # the query whose text both documents are
    assert json.loads((tmp_path / "health.json").read_text())["documents"] == 81
    page = (tmp_path / "health.html").read_text()
    assert "d0, d80" in page
    assert not {"hubs near queries"} & report.left_out.keys()
    assert "81" in report._repr_html_()


def test_sets_of_tokens_have_directions_and_no_distances(tmp_path, tiny_encoder):
    config = ModelConfig(trunk=tiny_encoder, family="late", late={"dimension": 8}, document_length=40)
    documents = [Document(f"d{place}", "the cat and the dog by the sea " * (place % 3 + 1)) for place in range(5)]
    report = inspect_health(Index.build(tmp_path / "late", documents, build(config)))
    assert report.directions.dimension == 8
    assert report.directions.vectors > 20  # of tokens
    assert report.hubness == []
    assert "no distance" in report.left_out["hubs near documents"]
    assert report.duplicates.equal == 2


@pytest.mark.parametrize("given", [{"k": 0}, {"sample": 2}, {"similar": 0.2}])
def test_mistakes(built, given):
    with pytest.raises(InputError, match="at least 3 documents"):
        inspect_health(built[0], **given)


def test_a_real_collection_has_a_known_duplicate(collections):
    found = find_duplicates(open_dataset(collections / "cranfield").documents())
    assert found.groups == [["471", "995"]]


@pytest.mark.parametrize(
    "values",
    [
        {"family": "qnet", "pooling": "mean", "normalize": True, "qnet": {"depth": 1}},
        {"family": "lorentz", "pooling": "mean", "lorentz": {"dimension": 6}},
        {"family": "levels", "pooling": "mean", "levels": {"d_hrm": 16, "num_segments": 2}},
        {"family": "card", "pooling": "mean", "normalize": True, "card": {"width": 16}},
        {"family": "late"},
    ],
    ids=lambda values: values["family"],
)
def test_every_family_has_its_health(tiny_encoder: str, tmp_path: Path, values: dict[str, Any]):
    model = build(ModelConfig.from_mapping({"trunk": tiny_encoder, **values}), device="cpu")
    documents = [Document(f"d{number}", text(number)) for number in range(12)]
    report = inspect_health(Index.build(tmp_path / "index", documents, model), k=3)
    assert 0 < report.directions.effective_rank <= report.directions.dimension
    [hubs] = report.hubness or [None]
    if hubs is None:  # sets of vectors have no distance
        assert report.directions.vectors > len(documents)
        assert "hubs near documents" in report.left_out
    else:
        assert sum(hub.count for hub in hubs.hubs) <= 3 * len(documents)
        assert hubs.documents == len(documents)


def test_an_index_of_passages_is_refused(tiny_encoder: str, tmp_path: Path):
    documents = [Document(f"d{number}", text(number)) for number in range(4)]
    model = build(ModelConfig(trunk=tiny_encoder, family="dense"), device="cpu")
    index = Index.build(tmp_path / "index", documents, model, passages={"tokens": 16, "overlap": 2})
    with pytest.raises(InputError, match="build it without passages"):
        inspect_health(index)


def test_an_output_that_is_a_file_is_refused(tiny_encoder: str, tmp_path: Path):
    documents = [Document(f"d{number}", text(number)) for number in range(4)]
    index = Index.build(tmp_path / "index", documents, build(ModelConfig(trunk=tiny_encoder, family="dense")))
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file"):
        inspect_health(index, k=1, output=tmp_path / "file")
