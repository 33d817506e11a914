"""mteb on tiny tasks made here: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from hyperseek import HyperseekError
from hyperseek.evaluation import MtebEncoder
from hyperseek.models import ModelConfig, Retriever, build

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


def test_a_model_of_functions_is_refused(tiny_encoder: str) -> None:
    with pytest.raises(HyperseekError, match="hyperseek evaluate"):
        MtebEncoder(make(tiny_encoder, family="qnet", normalize=True))
