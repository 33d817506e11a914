"""The disk cache of frozen features: right, reused, and never half-written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hyperseek import HyperseekError
from hyperseek.models import Retriever
from hyperseek.training import _cache as cache_module
from hyperseek.training._cache import FeatureCache

MakeRetriever = Callable[..., Retriever]
TEXTS = ["cat dog", "the sea and the moon and a tree", "net", "query document vector index neural small deep word text"]


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_token_features_are_those_of_the_route(make_retriever: MakeRetriever, tmp_path: Path, storage: str) -> None:
    retriever = make_retriever()
    stop = len(retriever.route("query")) - 1
    cache = FeatureCache(tmp_path, retriever, "query", stop=stop, tokens=True, storage=storage)
    cache.ensure(TEXTS)
    with torch.inference_mode():
        fresh = retriever.forward(retriever.preprocess(TEXTS, "query"), "query", stop=stop)
        wanted = retriever.compile(TEXTS)
        given = retriever.scorer(retriever.forward(cache.features(TEXTS), "query", start=stop))
    tolerance = 1e-5 if storage == "float32" else 2e-3
    mask = fresh["attention_mask"].bool()
    features = cache.features(TEXTS)
    assert torch.equal(features["attention_mask"].bool(), mask)
    torch.testing.assert_close(
        features["token_embeddings"][mask], fresh["token_embeddings"][mask], rtol=0, atol=tolerance
    )
    points = retriever.encode_documents(TEXTS)
    torch.testing.assert_close(given.score(points), wanted.score(points), rtol=0, atol=tolerance)


def test_document_vectors_are_those_of_the_retriever(make_retriever: MakeRetriever, tmp_path: Path) -> None:
    retriever = make_retriever()
    cache = FeatureCache(tmp_path, retriever, "document", stop=3, tokens=False, dtype="float32")
    cache.ensure(TEXTS)
    wanted = retriever.encode_documents(TEXTS, dtype="float32").vectors
    torch.testing.assert_close(cache.vectors(TEXTS[::-1]), wanted.flip(0))


def test_a_later_run_computes_only_new_texts(
    make_retriever: MakeRetriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = make_retriever()
    FeatureCache(tmp_path, retriever, "document", stop=3, tokens=False).ensure(TEXTS)
    encoded: list[str] = []
    encode = Retriever.encode_documents
    monkeypatch.setattr(
        Retriever,
        "encode_documents",
        lambda self, texts, **options: encoded.extend(texts) or encode(self, texts, **options),
    )
    again = FeatureCache(tmp_path, make_retriever(), "document", stop=3, tokens=False)
    again.ensure([*TEXTS, "moon"])
    assert encoded == ["moon"]
    assert again.vectors(["moon", "net"]).shape == (2, 32)


def test_what_changes_the_features_changes_the_folder(make_retriever: MakeRetriever, tmp_path: Path) -> None:
    def folder(retriever: Retriever, *, tokens: bool = True, storage: str = "float16") -> Path:
        return FeatureCache(tmp_path, retriever, "query", stop=3, tokens=tokens, storage=storage).folder

    changed = make_retriever()
    with torch.no_grad():
        next(changed.route("query")[0].parameters()).add_(1e-3)
    folders = [
        folder(make_retriever()),
        folder(changed),
        folder(make_retriever(prompts={"query": "find "})),
        folder(make_retriever(query_length=8)),
        folder(make_retriever(), tokens=False),
        folder(make_retriever(), storage="float32"),
    ]
    assert len(set(folders)) == len(folders)
    # The head is not part of the prefix.
    assert folder(make_retriever(qnet={"depth": 2})) == folders[0]


def test_a_kill_loses_only_the_shard_being_written(
    make_retriever: MakeRetriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SHARD_TEXTS", 4 * 2)  # of which a CPU takes a quarter
    retriever = make_retriever()
    calls = 0
    encode = Retriever.encode_documents

    def killed_at_the_second_shard(self: Retriever, texts: list[str], **options: str) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return encode(self, texts, **options)

    monkeypatch.setattr(Retriever, "encode_documents", killed_at_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, retriever, "document", stop=3, tokens=False).ensure(TEXTS)
    cache = FeatureCache(tmp_path, retriever, "document", stop=3, tokens=False)
    cache.ensure(TEXTS)
    assert calls == 3
    torch.testing.assert_close(cache.vectors(TEXTS), encode(retriever, TEXTS).vectors)


def test_half_written_shards_are_not_seen(make_retriever: MakeRetriever, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, make_retriever(), "document", stop=3, tokens=False)
    half = cache.folder / ".shard-1.tmp"
    half.mkdir(parents=True)
    (half / "keys.npy").write_bytes(b"half")
    old = cache.folder / ".shard-2.tmp"
    old.mkdir()
    os.utime(old, (0, 0))
    cache.ensure(TEXTS)
    assert cache.vectors(TEXTS).shape == (4, 32)
    assert (half.exists(), old.exists()) == (True, False)


def test_a_prefix_without_pooling_makes_no_vectors(make_retriever: MakeRetriever, tmp_path: Path) -> None:
    cold = make_retriever(qnet={"warm_start": False})
    assert set(_filled(FeatureCache(tmp_path, cold, "query", stop=1, tokens=True))) == {
        "token_embeddings",
        "attention_mask",
    }
    with pytest.raises(HyperseekError, match="warm_start"):
        FeatureCache(tmp_path, cold, "query", stop=1, tokens=False).ensure(TEXTS)


def _filled(cache: FeatureCache) -> dict[str, torch.Tensor]:
    cache.ensure(TEXTS)
    return cache.features(TEXTS)


def test_a_shard_that_another_process_finishes_meanwhile_is_no_leftover(
    make_retriever: MakeRetriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path, make_retriever(), "document", stop=3, tokens=False)
    listed = Path.glob

    def glob_before_renaming(folder: Path, pattern: str) -> list[Path]:
        return [*listed(folder, pattern), *([folder / ".shard-vectors-0.tmp"] if pattern.endswith(".tmp") else [])]

    monkeypatch.setattr(Path, "glob", glob_before_renaming)
    cache.ensure(TEXTS)
    assert cache.vectors(TEXTS).shape == (len(TEXTS), 32)
