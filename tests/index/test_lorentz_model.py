"""An index of a hybrid hyperbolic model: exact against float64, and bound to the curvature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from hyperseek import Document, HyperseekError, Index
from hyperseek.geometry import lorentz_distance_matrix
from hyperseek.models import LorentzHead, ModelConfig, Retriever, build, load
from hyperseek.models.families.lorentz.head import flip_time

WORDS = ["cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "tree", "leaf", "river", "stone", "city", "road"]
WITHIN = {"rtol": 0.0, "atol": 1e-5}
QUERIES = ["the cat and the dog", "river", "window table door house"]


def make(tiny_encoder: str, **lorentz: object) -> Retriever:
    values = {"trunk": tiny_encoder, "family": "lorentz", "pooling": "mean", "lorentz": {"dimension": 6, **lorentz}}
    return build(ModelConfig.from_mapping(values), device="cpu")


@pytest.mark.parametrize("engine", [None, "hnsw"])
def test_search_equals_brute_force_in_float64(tiny_encoder: str, tmp_path: Path, engine: str | None) -> None:
    retriever = make(tiny_encoder, radius_squared=0.6, norm_scale=0.3)
    texts = [f"{one} {other} text" for one in WORDS for other in WORDS]
    documents = [Document(str(place), text) for place, text in enumerate(texts)]
    retriever.save(tmp_path / "model")
    index = Index.build(tmp_path / "index", documents, retriever, dtype="float32")
    assert index.space == retriever.space
    if engine is not None:
        index.build_engine(engine)
    index = Index.open(tmp_path / "index")
    found = index.search(QUERIES, k=10, **({} if engine is None else {"engine": engine}))
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu", trust_remote_code=True)
    asked, points = torch.from_numpy(plain.encode_query(QUERIES)), torch.from_numpy(plain.encode_document(texts))
    truth = -lorentz_distance_matrix(flip_time(asked).double(), points.double(), 0.6)
    for hits, row in zip(found, truth, strict=True):
        rows = torch.tensor([int(hit.id) for hit in hits])
        torch.testing.assert_close(torch.tensor([hit.score for hit in hits], dtype=torch.float64), row[rows], **WITHIN)
        # The same words in another order lie close together, so documents may change places only within rounding.
        torch.testing.assert_close(row[rows], row.topk(10).values, **WITHIN)
    plain_order = (asked @ points.T).topk(10).indices
    torch.testing.assert_close(truth.gather(1, plain_order), truth.topk(10).values, **WITHIN)


def test_a_model_of_another_curvature_is_refused(tiny_encoder: str, tmp_path: Path) -> None:
    retriever = make(tiny_encoder, trainable_curvature=True)
    Index.build(tmp_path / "index", [Document("a", "cat"), Document("b", "dog")], retriever)
    head = retriever.route("document")[-1]
    assert isinstance(head, LorentzHead)
    with torch.no_grad():
        head.curvature.log_radius_squared += 0.1
    retriever.save(tmp_path / "model")
    with pytest.raises(HyperseekError, match="fingerprint"):
        Index.open(tmp_path / "index", model=load(tmp_path / "model", device="cpu")).search("cat")
