from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyperseek import HyperseekError
from hyperseek.errors import ConfigError, FingerprintError
from hyperseek.index import Index
from hyperseek.models import ModelConfig, Retriever, build, load
from hyperseek.training._cache import FeatureCache
from hyperseek.types import Document

DOCUMENTS = [Document(f"d{i}", f"the {word} and the city", word) for i, word in enumerate(["cat", "dog", "sea", "sun"])]
TEXTS = [document.full_text for document in DOCUMENTS]


@pytest.fixture
def qnet(tiny_encoder: str) -> Retriever:
    return build(ModelConfig(trunk=tiny_encoder, family="qnet", qnet={"depth": 1}), device="cpu")


def cache(folder: Path, retriever: Retriever, *, side: str = "document", dtype: str = "float32") -> FeatureCache:
    stop = len(retriever.route(side)) - (side == "query")
    return FeatureCache(folder, retriever, side, stop=stop, tokens=side == "query", dtype=dtype)


def test_indexed_documents_are_not_encoded_again(
    tmp_path: Path, tiny_encoder: str, qnet: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index.build(tmp_path / "index", DOCUMENTS, load(tiny_encoder, device="cpu"), dtype="float32")
    adopting = cache(tmp_path / "cache", qnet)
    adopting.adopt(index)
    expected = qnet.encode_documents(TEXTS, dtype="float32").vectors
    monkeypatch.setattr(qnet, "encode_documents", lambda *_, **__: pytest.fail("encoded again"))
    adopting.ensure(TEXTS)
    torch.testing.assert_close(adopting.vectors(TEXTS), expected, atol=1e-6, rtol=1e-5)
    adopting.adopt(index)
    assert len(list(adopting.folder.glob("shard-*"))) == 1


def test_indexes_that_do_not_fit_are_refused(tmp_path: Path, tiny_encoder: str, qnet: Retriever) -> None:
    dense = load(tiny_encoder, device="cpu")
    half = Index.build(tmp_path / "half", DOCUMENTS, dense, dtype="float32", storage="float16")
    with pytest.raises(ConfigError, match="float32 and stored in float16"):
        cache(tmp_path / "cache", qnet).adopt(half)
    rough = Index.build(tmp_path / "rough", DOCUMENTS, dense, dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"train\.cache\.dtype to bfloat16"):
        cache(tmp_path / "cache", qnet).adopt(rough)
    other = build(ModelConfig(trunk=tiny_encoder, family="dense", pooling="cls"), device="cpu")
    with pytest.raises(FingerprintError):
        cache(tmp_path / "cache", qnet).adopt(Index.build(tmp_path / "other", DOCUMENTS, other, dtype="float32"))
    given = zip(DOCUMENTS, dense.encode_documents(TEXTS).vectors, strict=True)
    imported = Index.from_vectors(tmp_path / "imported", given, model=dense)
    with pytest.raises(ConfigError, match="built from given vectors"):
        cache(tmp_path / "cache", qnet).adopt(imported)
    with pytest.raises(HyperseekError, match="whole document route is frozen"):
        cache(tmp_path / "cache", qnet, side="query").adopt(half)
