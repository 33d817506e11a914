"""An offline judge of adherence: whether the contexts support each sentence of a response.

A logistic regression on a few numbers for each sentence, from embeddings and from words shared with the contexts,
trained on RAGBench's labels of sentences. It needs no language model, and knows no more than likeness: a sentence that
negates its context looks supported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hyperseek._bounded import PathLike
from hyperseek._config import Config
from hyperseek._files import write_json
from hyperseek._fingerprint import fingerprint_json
from hyperseek.errors import DataError, FingerprintError, InputError
from hyperseek.evaluation.rag._samples import RagSample, SentenceLabels, recorded_samples

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.models import Retriever

_END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w+")
_FEATURES = ("best cosine", "mean of three", "words in the best sentence", "words in all", "numbers in all", "length")
_BEST = 3
_LARGEST_LOGIT = 700.0  # the exponential of more overflows
_FEWEST = 20  # labelled sentences to train on


class AdherenceScores(Config):
    """How well an offline judge tells supported from unsupported; areas under the ROC curve, 0.5 for a guess.

    Attributes:
        sentences: Number of labelled sentences.
        unsupported: How many of them are not supported.
        sentence_auroc: Of sentences; None if all have one label.
        responses: Number of labelled responses.
        response_auroc: Of responses by their worst sentences, as RAGBench's table has it; None if all have one label.
    """

    sentences: int
    unsupported: int
    sentence_auroc: float | None
    responses: int
    response_auroc: float | None


class AdherenceJudge(Config):
    """A trained offline judge.

    Attributes:
        embeddings: Name of the model that embeds sentences.
        fingerprint: That model's.
        trained_on: Name and fingerprint of the collection, and the split.
        mean: Of each feature in training.
        scale: Of each feature in training.
        weights: Of the scaled features.
        bias: Added to them.
    """

    embeddings: str
    fingerprint: str
    trained_on: dict[str, str]
    mean: tuple[float, ...] = Field(min_length=len(_FEATURES), max_length=len(_FEATURES))
    scale: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=len(_FEATURES), max_length=len(_FEATURES))
    weights: tuple[float, ...] = Field(min_length=len(_FEATURES), max_length=len(_FEATURES))
    bias: float

    def check_model(self, model: Retriever) -> None:
        """Raise FingerprintError unless a model is the one that this judge was trained with."""
        if model.fingerprint != self.fingerprint:
            raise FingerprintError(
                f"this judge of adherence was trained with {self.embeddings} ({self.fingerprint}), not with "
                f"{model.source} ({model.fingerprint}); give that model, or train the judge again"
            )

    def sentence_scores(self, sample: RagSample, model: Retriever) -> list[float]:
        """Return the probability of support for each sentence of a sample's response.

        Args:
            sample: With contexts and a response.
            model: The model that the judge was trained with.

        Returns:
            Numbers in [0, 1], in the order of the sentences.

        Raises:
            FingerprintError: It is another model.
        """
        self.check_model(model)
        sentences = _split(sample.response or "")
        if not sentences:
            return []
        found = _features(sentences, [one for text in sample.retrieved_contexts for one in _split(text)], model)
        scores: list[float] = self._probabilities(found).tolist()
        return scores

    def score(self, sample: RagSample, model: Retriever) -> float | None:
        """Return the probability of support of the worst sentence; None without a response."""
        return min(self.sentence_scores(sample, model), default=None)

    def measure(self, dataset: Dataset, model: Retriever, *, split: str = "test") -> AdherenceScores:
        """Measure the judge on labelled responses.

        Args:
            dataset: RAGBench's, or one of its form.
            model: The model that the judge was trained with.
            split: The split.

        Returns:
            Areas under the ROC curve.

        Raises:
            FingerprintError: It is another model.
            DataError: The split has no labelled responses.
        """
        self.check_model(model)
        features, labels, owners = _labelled(dataset, split, model)
        scores = self._probabilities(features)
        worst, adheres = [], []
        for owner in range(owners.max() + 1):
            own = owners == owner
            worst.append(scores[own].min())
            adheres.append(bool(labels[own].all()))
        return AdherenceScores(
            sentences=len(labels),
            unsupported=int((~labels).sum()),
            sentence_auroc=_auroc(labels, scores),
            responses=len(worst),
            response_auroc=_auroc(np.array(adheres), np.array(worst)),
        )

    def save(self, path: PathLike) -> None:
        """Write the judge as JSON, which `load` reads."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: PathLike) -> AdherenceJudge:
        """Read a judge that `save` wrote; DataError if the file is missing or holds none."""
        return cls.from_json(path, "a judge of adherence", remedy="train one by: hyperseek evaluate --adherence")

    @property
    def identity(self) -> str:
        """Fingerprint of the judge itself."""
        return fingerprint_json(self.model_dump(mode="json"))

    def _probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = (features - np.array(self.mean)) / np.array(self.scale)
        logits = np.clip(scaled @ np.array(self.weights) + self.bias, -_LARGEST_LOGIT, _LARGEST_LOGIT)
        found: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
        return found


def train_adherence(dataset: Dataset, model: Retriever, *, split: str = "train") -> AdherenceJudge:
    """Train an offline judge of adherence.

    Args:
        dataset: RAGBench's, or one of its form, with labels of sentences of responses.
        model: What embeds sentences; a frozen MiniLM will do.
        split: The split to learn from.

    Returns:
        The judge.

    Raises:
        UnknownNameError: There is no such split.
        DataError: There are fewer than 20 labelled sentences.
        InputError: All of them have one label.
    """
    from sklearn.linear_model import LogisticRegression

    features, labels, _ = _labelled(dataset, split, model)
    if len(labels) < _FEWEST:
        raise DataError(
            f"{dataset.name} has {len(labels)} labelled sentences in {split}; at least {_FEWEST} are needed"
        )
    if labels.all() or not labels.any():
        what = "supported" if labels.all() else "unsupported"
        raise InputError(f"all {len(labels)} labelled sentences of {dataset.name} in {split} are {what}")
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = 1
    # Both labels weigh the same, since unsupported sentences are few.
    fitted = LogisticRegression(class_weight="balanced", max_iter=1000).fit((features - mean) / scale, labels)
    return AdherenceJudge(
        embeddings=str(model.source),
        fingerprint=model.fingerprint,
        trained_on={"dataset": dataset.name, "data": dataset.fingerprint(), "split": split},
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(fitted.coef_[0].tolist()),
        bias=float(fitted.intercept_[0]),
    )


def _labelled(
    dataset: Dataset, split: str, model: Retriever
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return features, whether supported, and the number of the response, of every labelled sentence of a split."""
    features: list[NDArray[np.float64]] = []
    labels: list[bool] = []
    owners: list[int] = []
    for sample in recorded_samples(dataset, split=split):
        label = sample.labels[0]
        if label.unsupported is None or not label.response_sentences:
            continue
        contexts = [text for own in label.sentences for _, text in own]
        features.append(_features([text for _, text in label.response_sentences], contexts, model))
        labels += _supported(label)
        owners += [len(features) - 1] * len(label.response_sentences)
    if not labels:
        raise DataError(f"{dataset.name} has no labelled sentences of responses in {split}")
    return np.concatenate(features), np.array(labels), np.array(owners)


def _supported(label: SentenceLabels) -> list[bool]:
    unsupported = frozenset(label.unsupported or ())
    return [key not in unsupported for key, _ in label.response_sentences]


def _features(sentences: Sequence[str], contexts: Sequence[str], model: Retriever) -> NDArray[np.float64]:
    """Return `(S, 6)` numbers, named in `_FEATURES`."""
    found = np.zeros((len(sentences), len(_FEATURES)))
    if contexts:
        vectors = model.encode_features([*(one or " " for one in sentences), *contexts]).numpy().astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)  # an empty text may have no direction
        best = np.sort(vectors[: len(sentences)] @ vectors[len(sentences) :].T, axis=1)[:, ::-1][:, :_BEST]
        found[:, 0], found[:, 1] = best[:, 0], best.mean(axis=1)
    words = [frozenset(_WORD.findall(text.lower())) for text in contexts]
    everything = frozenset().union(*words)
    for row, sentence in enumerate(sentences):
        own = frozenset(_WORD.findall(sentence.lower()))
        numbers = {word for word in own if any(letter.isdigit() for letter in word)}
        found[row, 2] = max((len(own & other) for other in words), default=0) / max(1, len(own))
        found[row, 3] = len(own & everything) / max(1, len(own))
        found[row, 4] = len(numbers & everything) / len(numbers) if numbers else 1.0
        found[row, 5] = np.log1p(len(own))
    return found


def _split(text: str) -> list[str]:
    return [part.strip() for part in _END_OF_SENTENCE.split(text) if part.strip()]


def _auroc(labels: Any, scores: Any) -> float | None:
    from sklearn.metrics import roc_auc_score

    return None if labels.all() or not labels.any() else float(roc_auc_score(labels, scores))
