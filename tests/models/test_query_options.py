"""Options of a query: as a value, and on their way to the last module of a query route."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from hyperseek.errors import InputError, UnknownNameError
from hyperseek.models import ModelConfig, Retriever, load
from hyperseek.scoring import LinearScorer, load_scorer, vectors_of
from hyperseek.types import QueryOptions

sys.path.append(str(Path(__file__).parents[1]))  # for `option_family`, which other folders of tests read too

from option_family import Levels

TEXTS = ["the cat and the dog", "a small neural network", "sea", "what is the name of the song"]


@pytest.fixture(scope="module")
def levelled(tiny_encoder: str) -> Retriever:
    trunk = load(tiny_encoder, device="cpu")
    return Levels().build(trunk, trunk, ModelConfig(trunk=tiny_encoder))


def test_options_are_a_frozen_value_that_survives_json() -> None:
    options = QueryOptions(level=2, temperature=0.5, weights=[1, 2], card=None)
    assert dict(options) == {"level": 2, "temperature": 0.5, "weights": (1, 2)}
    assert repr(options) == "QueryOptions(level=2, temperature=0.5, weights=(1, 2))"
    assert (options.level, options.card) == (2, None)
    assert options == QueryOptions.of(json.loads(json.dumps(options.to_json())))
    assert pickle.loads(pickle.dumps(options)) == options  # noqa: S301  # ours
    assert len({options, QueryOptions(**options), QueryOptions(), QueryOptions(level=1), QueryOptions(level=True)}) == 4
    adapter = TypeAdapter(QueryOptions)
    assert adapter.validate_json(adapter.dump_json(options)) == options
    with pytest.raises(TypeError):
        options["level"] = 3  # type: ignore[index]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["level"], "options are a mapping of names to values"),
        ({2: "level"}, "options are a mapping"),
        ({"level": object()}, "the option level=<object object"),
        ({"level": float("nan")}, "give a text, a finite number"),
        ({"level": {"deep": 1}}, "or a list of them"),
    ],
)
def test_options_that_are_not_plain_are_refused(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        QueryOptions.of(given)


def test_an_option_reaches_the_last_module_and_changes_the_scores(levelled: Retriever) -> None:
    points = levelled.encode_documents(TEXTS)
    plain, first = levelled.compile(TEXTS), levelled.compile(TEXTS, {"level": 1})
    expected = plain.queries[:, 4:8] @ vectors_of(points)[:, 4:8].T  # type: ignore[attr-defined]
    torch.testing.assert_close(first.score(points), expected)
    assert not torch.allclose(plain.score(points), expected)
    torch.testing.assert_close(levelled.compile(TEXTS, QueryOptions(level=1, sign="minus")).score(points), -expected)


def test_a_scorer_remembers_its_options(levelled: Retriever, tmp_path: Path) -> None:
    scorer = levelled.compile(TEXTS, {"level": 1})
    assert scorer.options == scorer[1:2].options == scorer.to("cpu").detach().options == QueryOptions(level=1)
    assert LinearScorer.concatenate([scorer, scorer]).options == QueryOptions(level=1)
    scorer.save(tmp_path / "scorer.safetensors")
    assert load_scorer(tmp_path / "scorer.safetensors").options == QueryOptions(level=1)
    with pytest.raises(InputError, match="cannot join queries with different options"):
        LinearScorer.concatenate([scorer, levelled.compile(TEXTS)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levle": 1}, "'levle'; did you mean 'level'.*known: level, sign"),
        ({"card": "fever"}, "unknown option .* 'card'.*known: level, sign"),
        ({"level": 3}, "level=3 does not fit: Input should be less than 3"),
        ({"level": True}, "level=True does not fit: Input should be a valid integer"),
        ({"level": "1"}, "level='1' does not fit"),
        ({"sign": "both"}, "sign='both' does not fit: Input should be 'plus' or 'minus'"),
    ],
)
def test_options_that_a_model_does_not_understand_are_refused_before_anything_is_encoded(
    levelled: Retriever, options: dict[str, object], message: str
) -> None:
    for call in (levelled.compile, levelled.compile_batches):
        with pytest.raises(InputError, match=message):
            call([], options)


def test_a_model_without_options_refuses_every_one(tiny_encoder: str) -> None:
    plain = load(tiny_encoder, device="cpu")
    with pytest.raises(UnknownNameError, match="this model understands no options; leave 'level' out"):
        plain.compile(TEXTS, {"level": 1})
    assert plain.compile(TEXTS, {"level": None}).options == QueryOptions()
