"""Cards: their files, their errors, and Hydra's texts and templates."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hyperseek.cards import GENERIC, Card, JudgedPair, hydra_card, hydra_templates, read_card
from hyperseek.errors import ConfigError, InputError, UnknownNameError
from hyperseek.types import QueryOptions

FULL = Card(
    name="claims",
    description="Abstracts that refute a claim:\n\x07 or support it — “so”",
    query_examples=("a: b", "- yes"),
    doc_examples=("null", "two\nlines"),
    domain="medicine",
    query_type="claim",
    judged=(JudgedPair(query="q", document="d"), JudgedPair(query="q", document="e", grade=0)),
)


def test_texts_and_templates_are_those_of_hydra(golden: Path) -> None:
    recorded = json.loads((golden / "hydra" / "golden.json").read_text())
    assert hydra_templates() == list(recorded["cards"])
    for name, expected in recorded["cards"].items():
        card = hydra_card(name, expected["card"]["query_examples"], expected["card"]["doc_examples"])
        assert card == Card.from_mapping(expected["card"])
        assert card.to_text() == expected["text"]
        assert card.to_text(max_query_examples=1, max_doc_examples=0) == expected["text_1q_0d"]
    assert Card(name="n", description="d").to_text() == recorded["minimal_card_text"]
    with pytest.raises(UnknownNameError, match="did you mean 'scifact'"):
        hydra_card("sci-fact")


@pytest.mark.parametrize("name", ["card.yaml", "card.yml", "card.json"])
def test_a_written_card_is_read_again(tmp_path: Path, name: str) -> None:
    for card in (FULL, Card(name="n", description="d")):
        card.write(tmp_path / name)
        assert read_card(tmp_path / name) == card
    assert Card.from_json_text(FULL.to_json_text()) == FULL
    assert "\n" not in FULL.to_json_text()


def test_a_fingerprint_is_that_of_the_content_without_the_name() -> None:
    assert FULL.model_copy(update={"name": "other"}).fingerprint == FULL.fingerprint
    changes = {"description": "d", "doc_examples": (), "domain": "", "judged": FULL.judged[:1]}
    changed = {FULL.model_copy(update={field: value}).fingerprint for field, value in changes.items()}
    assert len(changed | {FULL.fingerprint}) == len(changes) + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: n\ndescription: d\nqueries: [a]", "unknown key"),
        ("description: d", "name: missing"),
        ("name: n\ndescription: ''", "at least 1 character"),
        ('name: "a\\nb"\ndescription: d', "pattern"),
        ("name: n\ndescription: d\nversion: 2", "version"),
        ("name: n\ndescription: d\nquery_examples: [1]", "valid string"),
        (f"name: n\ndescription: d\ndoc_examples: [{'a, ' * 1001}]", "at most 1000 items"),
        ("- name", "mapping"),
    ],
)
def test_mistakes_in_a_file_are_said(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_card(path)
    assert "card.yaml" in str(caught.value)


def test_files_that_cannot_be_cards(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_card(tmp_path / "none.yaml")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match=r"broken\.json"):
        read_card(tmp_path / "broken.json")
    with pytest.raises(ConfigError, match="not valid JSON"):
        Card.from_json_text("{'name': 'n'}")
    with pytest.raises(InputError, match=r"\.yaml, \.yml or \.json"):
        FULL.write(tmp_path / "card.txt")
    large = Card(name="n", description="d", doc_examples=("x" * 90_000,) * 3)
    with pytest.raises(InputError, match=r"write it as \.json"):
        large.write(tmp_path / "large.yaml")
    assert not (tmp_path / "large.yaml").exists()
    large.write(tmp_path / "large.json")
    assert read_card(tmp_path / "large.json") == large


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["card.yaml", "card.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="a pipe or a device"):
        read_card(tmp_path / name)


def test_queries_take_a_card_as_its_json() -> None:
    generic = Card(name="generic", description=GENERIC)
    options = QueryOptions(card=generic)
    assert options == QueryOptions(card=generic.to_json_text())
    assert Card.from_json_text(options.card) == generic
    assert QueryOptions.of({"card": generic}) == options
