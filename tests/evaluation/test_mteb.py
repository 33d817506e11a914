"""mteb on tiny tasks made here: nothing is downloaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from hyperseek import HyperseekError
from hyperseek.evaluation import MtebEncoder
from hyperseek.evaluation.mteb._model import apart, query_of
from hyperseek.models import ModelConfig, Retriever, build
from hyperseek.scoring import Space, VectorPoints, vectors_of

pytest.importorskip("mteb")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:mteb"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension` method:FutureWarning"),
]
WORDS = ["cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "tree", "leaf", "river", "stone"]
ANIMALS, OTHERS = WORDS[:4], WORDS[4:]


@pytest.fixture(scope="module")
def tasks() -> list[Any]:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    def described(name: str, kind: Any, category: Any, score: str) -> TaskMetadata:
        fields = ["date", "domains", "task_subtypes", "license", "annotations_creators", "dialect"]
        unknown: dict[str, Any] = dict.fromkeys([*fields, "sample_creation", "bibtex_citation"])
        return TaskMetadata(
            name=name,
            description="Made for a test.",
            reference=None,
            dataset={"path": "none", "revision": "1"},
            type=kind,
            category=category,
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score=score,
            **unknown,
        )

    class Words(AbsTaskRetrieval):
        """Find each text by itself."""

        metadata = described("Words", "Retrieval", "t2t", "ndcg_at_10")

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            texts = [f"{word} {word} {word} text" for word in WORDS]
            corpus = {"id": [f"d{word}" for word in WORDS], "title": [""] * len(WORDS), "text": texts}
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_dict(corpus),
                        "queries": Dataset.from_dict({"id": WORDS, "text": texts}),
                        "relevant_docs": {word: {f"d{word}": 1} for word in WORDS},
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    class Sorts(AbsTaskClassification):
        """Tell animals from other things."""

        metadata = described("Sorts", "Classification", "t2c", "accuracy")
        n_experiments = 1
        samples_per_label = 4

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            rows = {"text": [f"the {word}" for word in WORDS], "label": [int(word in ANIMALS) for word in WORDS]}
            self.dataset = DatasetDict(train=Dataset.from_dict(rows), test=Dataset.from_dict(rows))
            self.data_loaded = True

    return [Words, Sorts]


def make(tiny_encoder: str, **values: Any) -> Retriever:
    return build(ModelConfig.from_mapping({"trunk": tiny_encoder, "pooling": "mean", **values}), device="cpu")


def measured(model: Any, tasks: list[Any]) -> list[float]:
    import mteb

    results = [mteb.evaluate(model, [task()], cache=None, co2_tracker=False).task_results[0] for task in tasks]
    return [result.scores["test"][0]["main_score"] for result in results]


def test_plain_sentence_transformers_and_the_wrapper_measure_alike(
    tiny_encoder: str, tmp_path: Path, tasks: list[Any]
) -> None:
    retriever = make(tiny_encoder, family="lorentz", normalize=True, lorentz={"dimension": 12, "norm_scale": 1.5})
    retriever.save(tmp_path)
    plain = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    ours = measured(MtebEncoder(retriever, name="toy/lorentz"), tasks)
    assert ours == pytest.approx(measured(plain, tasks), abs=1e-6)
    assert ours[0] == 1.0


def test_sides_and_neither_are_told_apart(tiny_encoder: str) -> None:
    encoder = MtebEncoder(make(tiny_encoder, family="lorentz", lorentz={"dimension": 5}))
    texts = [{"text": ["cat", "the dog and the bird"]}, {"text": ["sea"]}]
    queries, documents, features = (encoder.encode(texts, prompt_type=side) for side in ("query", "document", None))
    assert queries.shape == documents.shape == (3, 7)
    assert features.shape == (3, 5)
    scores = encoder.similarity(queries, documents)
    assert scores.diagonal().abs().max() < 0.01  # documents are encoded in bfloat16 where the machine has it
    assert encoder.similarity_pairwise(queries, documents).tolist() == pytest.approx(scores.diagonal().tolist())
    assert encoder.similarity(features, features).diagonal().tolist() == pytest.approx([1, 1, 1])
    assert encoder.similarity_pairwise(features, features).tolist() == pytest.approx([1, 1, 1])


def test_queries_that_are_functions_are_searched_with_and_not_encoded(tiny_encoder: str) -> None:
    encoder = MtebEncoder(make(tiny_encoder, family="qnet", normalize=True))
    assert encoder.encode([{"text": ["cat"]}]).shape == (1, 32)
    with pytest.raises(HyperseekError, match="let mteb search"):
        encoder.encode([{"text": ["cat"]}], prompt_type="query")


def test_sets_of_vectors_have_their_mean_as_features(tiny_encoder: str) -> None:
    late = build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "late"}), device="cpu")
    encoder = MtebEncoder(late)
    points = late.encode_documents(["the cat", "sea"], dtype="float32")
    means = torch.stack([points[torch.tensor([place])].vectors.mean(dim=0) for place in range(2)])
    torch.testing.assert_close(torch.as_tensor(encoder.encode([{"text": ["the cat", "sea"]}])), means)
    with pytest.raises(HyperseekError, match="set of vectors"):
        encoder.encode([{"text": ["cat"]}], prompt_type="document")


@pytest.mark.parametrize("radius_squared", [1.0, 4.0])
def test_texts_are_compared_by_a_similarity_of_the_space_if_asked(tiny_encoder: str, radius_squared: float) -> None:
    lorentz = {"dimension": 5, "radius_squared": radius_squared}
    retriever = make(tiny_encoder, family="lorentz", lorentz=lorentz)
    texts = ["cat", "the dog and the bird", "sea"]
    points = vectors_of(retriever.encode_documents(texts, dtype="float32"))
    for scoring in ("geodesic", "inner"):
        encoder = MtebEncoder(retriever, scoring=scoring)
        features = encoder.encode([{"text": texts}])
        space = Space("lorentz", 5, radius_squared=radius_squared, similarity=scoring)
        expected = space.score(points, VectorPoints(points))
        torch.testing.assert_close(encoder.similarity(features, features), expected, atol=2e-3, rtol=1e-4)
        pairs = encoder.similarity_pairwise(features[:2], features[1:])
        torch.testing.assert_close(pairs, expected.diagonal(1), atol=1e-4, rtol=1e-4)
        assert encoder.mteb_model_meta.experiment_name == f"scoring_{scoring}"
    with pytest.raises(HyperseekError, match="known: geodesic, inner, squared"):
        MtebEncoder(retriever, scoring="cosine")
    with pytest.raises(HyperseekError, match="leave it out"):
        MtebEncoder(make(tiny_encoder), scoring="inner")


def test_equal_scores_are_handed_over_in_our_order() -> None:
    ranking = apart({"b": 1.0, "z": 1.0, "a": 1.0, "c": 0.5, "d": 1.0 - 1e-9})
    assert list(ranking) == ["b", "z", "a", "d", "c"]
    assert sorted(ranking, key=lambda name: (ranking[name], name), reverse=True) == ["b", "z", "a", "d", "c"]
    assert max(abs(ranking[name] - 1) for name in "bzad") < 1e-6
    untied = {"b": 2.0, "a": 0.25}
    assert apart(untied) == untied


@pytest.mark.parametrize(
    "row",
    [
        {"text": "what grows"},
        {"text": "what grows", "instruction": "Only trees."},
        {"text": ["first", "second"]},
        {"text": [{"role": "user", "content": "hi"}, {"role": "bot", "content": "yes"}], "instruction": "Be short."},
    ],
    ids=["text", "instruction", "turns", "roles"],
)
def test_queries_read_as_mteb_gives_them(row: dict[str, Any]) -> None:
    from datasets import Dataset
    from mteb._create_dataloaders import _retrieval_texts
    from mteb.types import PromptType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (expected,) = _retrieval_texts(Dataset.from_list([{"id": "q", **row}]), PromptType.query)
    assert query_of({"id": "q", **row}).text == expected


def test_other_heads_on_the_same_documents_have_results_of_their_own(tiny_encoder: str) -> None:
    dense = make(tiny_encoder, family="dense", normalize=True)
    qnet = make(tiny_encoder, family="qnet", normalize=True)
    assert dense.fingerprint == qnet.fingerprint
    assert MtebEncoder(dense).mteb_model_meta.revision != MtebEncoder(qnet).mteb_model_meta.revision
