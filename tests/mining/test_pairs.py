"""Teachers of pairs: cross-encoders and retrievers."""

from __future__ import annotations

import pytest
import torch

from hyperseek.errors import InputError, ModelError
from hyperseek.mining import load_teacher
from hyperseek.mining._teachers import CrossEncoderTeacher, RetrieverTeacher
from hyperseek.models import load

PAIRS = [("what is a net", "a small net"), ("who", "city road"), ("what is a net", "city road"), ("who", "a small net")]


@pytest.fixture(scope="module")
def cross_encoder(tiny_encoder, tmp_path_factory):
    """A random cross-encoder, saved as transformers saves one."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    def make(labels: int) -> str:
        folder = tmp_path_factory.mktemp("cross-encoder")
        torch.manual_seed(labels)
        BertForSequenceClassification.from_pretrained(tiny_encoder, num_labels=labels).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
        return str(folder)

    return make


@pytest.mark.filterwarnings("ignore:.*classifier.*")
def test_a_cross_encoder_scores_pairs_by_its_bare_output(cross_encoder):
    folder = cross_encoder(1)
    teacher = load_teacher(folder, device="cpu")
    assert isinstance(teacher, CrossEncoderTeacher)
    assert teacher.name == folder
    scores = teacher.score_pairs(PAIRS)
    model, tokenizer = teacher.model.model, teacher.model.tokenizer
    with torch.inference_mode():
        expected = [float(model(**tokenizer(*pair, return_tensors="pt")).logits) for pair in PAIRS]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert len(set(scores)) == 4
    assert teacher.score_pairs([]) == []


@pytest.mark.filterwarnings("ignore:.*classifier.*")
def test_a_teacher_that_was_retrained_has_another_fingerprint(cross_encoder, tiny_encoder):
    teacher = load_teacher(cross_encoder(1), device="cpu")
    before = teacher.fingerprint
    assert before == teacher.fingerprint != RetrieverTeacher(load(tiny_encoder, device="cpu")).fingerprint
    with torch.no_grad():
        next(teacher.model.parameters()).add_(1e-3)
    assert teacher.fingerprint != before


def test_a_classifier_of_several_labels_is_refused(cross_encoder):
    with pytest.raises(InputError, match=r"must give one score per pair, and .* gives 3"):
        load_teacher(cross_encoder(3), device="cpu")


def test_a_retriever_scores_pairs_as_it_searches(tiny_encoder):
    teacher = load_teacher(tiny_encoder, device="cpu")
    assert isinstance(teacher, RetrieverTeacher)
    assert teacher.name == tiny_encoder
    model = load(tiny_encoder, device="cpu")
    expected = [
        float(model.compile([query]).score(model.encode_documents([text], dtype="float32"))) for query, text in PAIRS
    ]
    assert teacher.score_pairs(PAIRS) == pytest.approx(expected, abs=2e-2)  # documents in bfloat16
    assert teacher.score_pairs([]) == []


def test_there_is_no_such_teacher(tmp_path):
    with pytest.raises(ModelError):
        load_teacher(tmp_path / "nothing")
