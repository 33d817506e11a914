"""Snippets: the sentence that answers, its words marked, with places in the original text."""

import copy
import pickle
from pathlib import Path

import pytest

from hyperseek import Document, Hit, Index, load
from hyperseek.errors import InputError
from hyperseek.index._hits import snippet_of
from hyperseek.types import Passage, Token, TokenMatch

FILLER = "Nothing of interest stands in this sentence about rivers. " * 20


def _snippet(query: str, text: str) -> tuple[str, list[str]]:
    found = snippet_of(query, Hit("d", 1.0, 1, Document("d", text)))
    assert found.text == text[found.start : found.end]
    assert len(found.text) <= 240
    return found.text, [found.text[start:end] for start, end in found.highlights]


def test_the_sentence_that_answers_is_found_deep_in_a_text() -> None:
    text = FILLER + "Weak references are made by weakref.ref. They die. " + FILLER
    shown, marked = _snippet("how are weak references made?", text)
    assert shown.startswith("Weak references are made by weakref.ref. They die. Nothing")
    assert marked == ["Weak", "references", "made"]


def test_words_are_folded_and_stemmed() -> None:
    pytest.importorskip("Stemmer")
    assert _snippet("MAKING Straße", "He makes things in the STRASSE.")[1] == ["makes", "STRASSE"]


def test_stop_words_count_only_where_there_is_nothing_else() -> None:
    assert _snippet("the cat", "The dog and the cat.")[1] == ["cat"]
    assert _snippet("who is it", "It is he.")[1] == ["It", "is"]


def test_scripts_without_blanks_match_by_character() -> None:
    assert _snippet("猫在哪里", "狗。" * 200 + "这是一只猫。" + "狗。" * 200)[1] == ["猫"]


def test_without_a_match_the_beginning_is_shown() -> None:
    shown, marked = _snippet("volcano", "  " + FILLER)
    assert shown.startswith("Nothing of interest")
    assert marked == []
    assert _snippet("", "")[0] == ""
    assert _snippet("x", " \n ")[1] == []


def test_a_sentence_that_is_too_long_is_cut_around_its_first_match() -> None:
    text = "word " * 500 + "volcano " + "word " * 500
    shown, marked = _snippet("volcano", text)
    assert marked == ["volcano"]
    assert shown.index("volcano") <= 80
    assert shown.startswith("word")


def test_a_line_of_any_length_has_a_snippet() -> None:
    shown, _ = _snippet("volcano", "x" * 10_000_000)
    assert shown == "x" * 240


def test_the_end_of_a_text_is_shown_with_what_stands_before() -> None:
    shown, marked = _snippet("volcano", FILLER + "A volcano.")
    assert shown.endswith("A volcano.")
    assert len(shown) > 200
    assert marked == ["volcano"]


def test_places_are_those_of_the_document_where_the_hit_is_a_passage() -> None:
    whole = FILLER + "A volcano erupts."
    start = len(FILLER)
    passage = Passage(whole[start:], start, len(whole), 0.5)
    found = snippet_of("volcano", Hit("d", 0.5, 1, Document("d", passage.text), (passage,)))
    assert whole[found.start : found.end] == found.text == "A volcano erupts."


def test_matches_of_tokens_are_marked_where_there_are_any() -> None:
    hit = Hit("d", 1.0, 1, Document("d", "a kitten sat.", title="Cats"))
    query = (Token("cat", start=0, end=3),)
    pieces = (Token("kit", start=7, end=10), Token("##ten", start=10, end=13))
    matches = tuple(TokenMatch(query, (piece,), n, 0.9, 0.9) for n, piece in enumerate(pieces))
    hit.matched_by(lambda: matches)
    found = snippet_of("cat", hit)
    assert [found.text[start:end] for start, end in found.highlights] == ["kitten"]


def test_hits_of_an_index_have_snippets_and_their_copies_the_beginning(tiny_encoder: str, tmp_path: Path) -> None:
    texts = ["A river. The moon shines.", "Cats and dogs."]
    index = Index.build(tmp_path / "index", texts, load(tiny_encoder, device="cpu"))
    for hits in (index.search("moon", k=2), index.explain(["moon"], k=2, texts=True).hits[0]):
        [hit] = [hit for hit in hits if hit.id == "0"]
        assert [hit.snippet.text[start:end] for start, end in hit.snippet.highlights] == ["moon"]
        assert hit.snippet.to_json()["highlights"] == [[13, 17]]
        for other in (copy.copy(hit), copy.deepcopy(hit), pickle.loads(pickle.dumps(hit))):  # noqa: S301
            assert other == hit
            assert other.snippet.text == texts[0]
    with pytest.raises(InputError, match="has no text"):
        _ = index.search("moon", k=1, texts=False)[0].snippet
