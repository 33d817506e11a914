"""Pooling of token vectors against PyLate's and reasoning_embedder's recorded outputs, scipy, and what it promises."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from hyperseek.errors import ConfigError, InputError, UnknownNameError
from hyperseek.geometry.tokens import hierarchical_labels, k_means_labels, sequential_labels
from hyperseek.nn.token_pooling import PoolingConfig, TokenPooling
from hyperseek.scoring import MaxSimScorer, Space, TokenPoints

METHODS = ("hierarchical", "k_means", "sequential", "attention")


def tokens(count: int, size: int = 8, seed: int = 0) -> Tensor:
    """Unit vectors around a few directions."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(1 + count // 4, size, generator=generator)
    vectors = centres[torch.randint(len(centres), (count,), generator=generator)]
    return torch.nn.functional.normalize(vectors + 0.3 * torch.randn(count, size, generator=generator), dim=1)


def same_rows(found: Tensor, expected: np.ndarray, tolerance: float = 1e-5) -> bool:
    """Whether two sets of vectors agree, in whatever order."""
    far = torch.cdist(found.double(), torch.from_numpy(expected).double())
    return found.shape == expected.shape and bool((far.min(0).values < tolerance).all())


@pytest.fixture(scope="module")
def pylate(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "colbert/golden.npz"))


@pytest.fixture(scope="module")
def original(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "colbert/rembed_pruning.npz"))


class TestRecorded:
    def test_pylate(self, pylate):
        variants = sorted({name.split("/")[0] for name in pylate if name.endswith("/pool2_prot0_d0")})
        assert len(variants) >= 5
        for variant, factor, protected, document in product(variants, (2, 3), (0, 1, 2), range(4)):
            name = f"{variant}/pool{factor}_prot{protected}_d{document}"
            pooling = TokenPooling(pool_factor=factor, linkage="ward", protected_tokens=protected)
            found = pooling.pool_one(torch.from_numpy(pylate[f"{variant}/d{document}"]))
            assert same_rows(found, pylate[name]), name
            assert torch.equal(found[:protected], torch.from_numpy(pylate[name][:protected]))

    def test_pylate_scores(self, pylate):
        pooling = TokenPooling(pool_factor=3, linkage="ward")
        documents = TokenPoints.from_documents([torch.from_numpy(pylate[f"default/d{row}"]) for row in range(4)])
        queries = torch.stack([torch.from_numpy(pylate[f"default/q{row}"]) for row in range(3)])
        scorer = MaxSimScorer(Space("tokens", 16), queries, torch.ones(queries.shape[:2]))
        scores = scorer.score(pooling.pool_points(documents))
        assert np.allclose(scores, pylate["default/pool3_prot1_maxsim"], atol=1e-5)

    def test_reasoning_embedder_hierarchical(self, original, pylate):
        for factor, protected, method, document in product(
            (1.5, 2.0, 3.0), (0, 2), ("average", "ward", "complete"), range(4)
        ):
            name = f"hier/pf{factor}_prot{protected}_{method}_d{document}"
            options = {"pool_factor": factor, "protected_tokens": protected, "linkage": method}
            pooling = TokenPooling(**options, distance="euclidean", rounding="ceil")
            found = pooling.pool_one(torch.from_numpy(pylate[f"default/d{document}"]))
            assert same_rows(found, original[name]), name

    def test_reasoning_embedder_attention(self, original, pylate):
        for ratio, document in product((0.6, 0.3), range(4)):
            vectors = torch.from_numpy(pylate[f"default/d{document}"])
            options = {"method": "attention", "keep_ratio": ratio, "rounding": "ceil"}
            found = TokenPooling(**options, protected_tokens=2).pool_one(vectors)
            assert torch.equal(found, torch.from_numpy(original[f"attn/keep{ratio}_prot2_d{document}"]))
            weights = torch.from_numpy(original[f"attn/weights_d{document}"])
            found = TokenPooling(**options, protected_tokens=1).pool_one(vectors, weights)
            assert torch.equal(found, torch.from_numpy(original[f"attn/keep{ratio}_prot1_w_d{document}"]))


class TestClusters:
    @given(st.integers(2, 80), st.integers(2, 12), st.integers(0, 2**32 - 1), st.data())
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_fast_linkages_are_scipys(self, monkeypatch, count, size, seed, data):
        monkeypatch.setattr("hyperseek.geometry.tokens._FEW_TOKENS", 2)
        clusters = data.draw(st.integers(1, count))
        generator = np.random.default_rng(seed)
        vectors = generator.normal(size=(count, size)).astype(np.float32)
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
        cosines = squareform(np.clip(1 - unit @ unit.T, 0, 2), checks=False)
        for tree, found in (
            (linkage(cosines, "average"), hierarchical_labels(torch.from_numpy(vectors), clusters)),
            (
                linkage(vectors.astype(np.float64), "ward"),
                hierarchical_labels(torch.from_numpy(vectors), clusters, linkage="ward", distance="euclidean"),
            ),
        ):
            expected = fcluster(tree, clusters, "maxclust")
            assert len(set(zip(found.tolist(), expected.tolist(), strict=True))) == clusters == found.max() + 1

    @pytest.mark.parametrize("distance", ["cosine", "euclidean"])
    @pytest.mark.parametrize("method", ["average", "ward"])
    @pytest.mark.parametrize("few", [2, 512])
    def test_equal_tokens(self, method, distance, few, monkeypatch):
        monkeypatch.setattr("hyperseek.geometry.tokens._FEW_TOKENS", few)
        repeated = tokens(12).repeat_interleave(7, dim=0)
        found = hierarchical_labels(repeated, 12, linkage=method, distance=distance)
        assert torch.equal(found.unique_consecutive().unique(), torch.arange(12))
        assert len(found.unique_consecutive()) == 12
        for constant in (torch.zeros(40, 4), torch.ones(40, 4)):
            assert hierarchical_labels(constant, 5, linkage=method, distance=distance).max() < 5

    @pytest.mark.parametrize("few", [2, 512])
    def test_labels_are_numbered_by_first_member(self, few, monkeypatch):
        monkeypatch.setattr("hyperseek.geometry.tokens._FEW_TOKENS", few)
        found = hierarchical_labels(tokens(60), 9).tolist()
        assert list(dict.fromkeys(found)) == list(range(9))

    def test_k_means_finds_separate_groups(self):
        groups = torch.eye(6).repeat_interleave(9, dim=0) + 0.01 * tokens(54, 6)
        shuffled = torch.randperm(54, generator=torch.Generator().manual_seed(3))
        found = k_means_labels(groups[shuffled], 6)
        assert len(set(zip(found.tolist(), (shuffled // 9).tolist(), strict=True))) == 6

    def test_stretches(self):
        assert sequential_labels(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]

    def test_refused(self):
        with pytest.raises(InputError, match="1 to 5 clusters, not 6"):
            hierarchical_labels(tokens(5), 6)
        with pytest.raises(UnknownNameError, match="single"):
            hierarchical_labels(tokens(5), 2, linkage="single")  # type: ignore[arg-type]


class TestModule:
    @pytest.mark.parametrize("method", METHODS)
    @given(count=st.integers(0, 40), factor=st.floats(1, 9), protected=st.integers(0, 3), up=st.booleans())
    @settings(max_examples=25, deadline=None)
    def test_counts_and_protected(self, method, count, factor, protected, up):
        pooling = TokenPooling(
            method=method, pool_factor=factor, protected_tokens=protected, rounding="ceil" if up else "floor"
        )
        vectors = tokens(count) if count else torch.zeros(0, 8)
        found = pooling.pool_one(vectors)
        first = min(protected, count)
        rest = count - first
        wanted = min(rest, max(1, int(np.ceil(rest / factor) if up else rest // factor)))
        assert torch.equal(found[:first], vectors[:first])
        assert len(found) <= first + wanted
        if method != "k_means":  # which may have fewer where tokens are equal
            assert len(found) == first + wanted
        assert (pooling.counts.seen, pooling.counts.kept) == (count, first + wanted)

    @pytest.mark.parametrize("method", METHODS)
    def test_constant_space(self, method):
        pooling = TokenPooling(method=method, budget=6)
        points = TokenPoints.from_documents([tokens(count, seed=count) for count in (3, 6, 50, 200)])
        assert pooling.pool_points(points).lengths.tolist() == [3, 6, 6, 6]

    def test_batches_agree_with_single_texts(self):
        pooling = TokenPooling(pool_factor=3, renormalise=True)
        texts = [tokens(count, seed=count) for count in (9, 4, 17)]
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        mask = torch.tensor([[1] * len(text) + [0] * (17 - len(text)) for text in texts])
        features = pooling({"token_embeddings": padded, "attention_mask": mask}, task="document")
        for row, text in enumerate(texts):
            expected = pooling.pool_one(text)
            assert torch.equal(features["token_embeddings"][row][features["attention_mask"][row].bool()], expected)
            assert torch.allclose(expected.norm(dim=1), torch.ones(len(expected)))
        untouched = {"token_embeddings": padded, "attention_mask": mask}
        assert pooling(untouched, task="query")["token_embeddings"] is padded

    @pytest.mark.parametrize("method", METHODS)
    def test_gradients(self, method):
        vectors = tokens(20).double().requires_grad_()
        found = TokenPooling(method=method, pool_factor=4).pool_one(vectors)
        found.sum().backward()
        reached = vectors.grad.abs().sum(1) > 0
        assert reached[0]
        assert reached.sum() == (len(found) if method == "attention" else 20)

    def test_saved_and_loaded(self, tmp_path):
        pooling = TokenPooling(budget=9, method="k_means", tasks="query", renormalise=True)
        pooling.save(str(tmp_path))
        assert TokenPooling.load(str(tmp_path)).config == pooling.config

    def test_refused(self):
        with pytest.raises(ConfigError, match="protected"):
            TokenPooling(budget=1)
        with pytest.raises(ConfigError, match="pool_factor"):
            TokenPooling(budget=9, pool_factor=2)
        with pytest.raises(ConfigError, match="pool_factor"):
            PoolingConfig.from_mapping({"pool_facter": 2})
