"""Cards of collections: drafted, checked and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperseek.cards import Card, JudgedPair, read_card
from hyperseek.cli import app
from hyperseek.data import check_card, compare_cards, draft_card, open_dataset
from hyperseek.errors import InputError, UnknownNameError

TOPICS = ("cat", "dog", "sea", "moon", "road")


@pytest.fixture
def topics(tmp_path: Path) -> Path:
    """50 documents and queries of five topics; the last of each topic are asked in test, the first also relevant there.

    d0 is relevant in train and in test; q1 and t1 have the same text.
    """
    folder = tmp_path / "topics"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "text": f"all about the {TOPICS[n % 5]} of number{n}. And {'more ' * n}"}
                 for n in range(50)]  # fmt: skip
    queries = [{"_id": f"q{n}", "text": f"what is the {TOPICS[n % 5]} of number{n}"} for n in range(40)]
    queries += [{"_id": f"t{n}", "text": f"What  is the {TOPICS[n % 5]} of number{n}" if n == 1 else f"which {n}"}
                for n in range(5)]  # fmt: skip
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    (folder / "qrels/train.tsv").write_text("".join(f"q{n}\td{n}\t{1 + n % 2}\n" for n in range(40)))
    (folder / "qrels/test.tsv").write_text("".join(f"t{n}\td{n and 44 + n}\t1\n" for n in range(5)))
    return folder


def test_a_draft(topics: Path) -> None:
    card = draft_card(topics, queries=5, documents=5, judged=3, characters=60)
    assert card == draft_card(topics, queries=5, documents=5, judged=3, characters=60)
    assert card != draft_card(topics, queries=5, documents=5, judged=3, characters=60, seed=1)
    # Each topic once: examples differ from each other.
    for examples in (card.query_examples, card.doc_examples):
        assert sorted(next(topic for topic in TOPICS if topic in text) for text in examples) == sorted(TOPICS)
    train = {query.text: query.id for query in open_dataset(topics).queries("train")}
    texts = [document.full_text for document in open_dataset(topics).documents()]
    for text in card.doc_examples:
        assert len(text) <= 60
        assert any(text in whole for whole in texts[1:40])
        assert text.endswith((".", "more"))
    assert set(card.query_examples) < set(train)
    for pair in card.judged:
        number = int(train[pair.query][1:])
        assert pair.document in texts[number]
        assert pair.grade == 1 + number % 2
        assert pair.query not in card.query_examples
    assert [one.place for one in check_card(card)] == ["description", "domain", "query_type"]
    assert {one.kind for one in check_card(card)} == {"placeholder"}


def test_nothing_of_a_test_is_in_a_draft(topics: Path) -> None:
    card = draft_card(topics, queries=100, documents=100)
    assert len(card.query_examples) == 39  # without q1, which is asked in test
    assert len(card.doc_examples) == 38  # without d0, and that of q1
    assert not check_card(card.model_copy(update={"description": "Find all about it", "domain": "", "query_type": ""}),
                          against=[str(topics)])  # fmt: skip
    with pytest.raises(InputError, match=r"the split 'test' of topics is for measuring.*name another of \[.*\]$"):
        draft_card(f"{topics}:test")
    with pytest.raises(UnknownNameError, match="split of topics 'trian'"):
        draft_card(f"{topics}:trian")
    with pytest.raises(InputError, match="not from the table"):
        draft_card("columns:table.jsonl")


def test_a_draft_of_documents_or_queries_alone(topics: Path, caplog: pytest.LogCaptureFixture) -> None:
    (topics / "qrels/train.tsv").unlink()
    card = draft_card(topics, queries=5, documents=100)
    assert "has no split to learn from, only test" in caplog.text
    assert card.query_examples == ()
    assert len(card.doc_examples) == 45  # all that no test query finds
    with pytest.raises(InputError, match="no judgements to take pairs from"):
        draft_card(topics, judged=1)
    (topics / "qrels/test.tsv").unlink()
    assert len(draft_card(topics, queries=100).query_examples) == 44  # q1 and t1 are one
    (topics / "README.md").write_text("---\nlicence: any\n---\n# Topics\n\n- a list\n\nDocuments about\nfive topics.\n")
    assert draft_card(topics).description == "Documents about five topics."


def test_templates_of_known_collections(topics: Path) -> None:
    card = draft_card(f"scifact={topics}", name="claims")
    assert (card.name, card.domain, card.query_type) == ("claims", "scientific", "claim_verification")
    assert not check_card(card)


def test_findings(topics: Path) -> None:
    documents = [document.full_text for document in open_dataset(topics).documents()]
    card = Card(
        name="bad",
        description="relevant things",
        query_examples=("which 2", "a query", "A  query", "TODO: another"),
        doc_examples=(documents[46][:45], "own words of a document"),
        domain="  ",
        judged=(JudgedPair(query="WHICH 3", document=documents[0]), JudgedPair(query="x", document="y"),
                JudgedPair(query="X", document="Y", grade=0)),
    )  # fmt: skip
    found = {(one.kind, one.place): one for one in check_card(card, against=[f"{topics}:test"])}
    assert {key: one.wrong for key, one in found.items()} == {
        ("placeholder", "query_examples[3]"): True,
        ("length", "domain"): True,
        ("length", "description"): False,
        ("length", "doc_examples"): False,
        ("duplicate", "query_examples[2]"): True,
        ("duplicate", "judged[2]"): True,
        ("evaluation", "query_examples[0]"): True,
        ("evaluation", "doc_examples[0]"): True,
        ("evaluation", "judged[0].query"): True,
        ("evaluation", "judged[0].document"): True,
    }
    assert "is query 't2' of" in found["evaluation", "query_examples[0]"].message
    assert "is document 'd46' of" in found["evaluation", "doc_examples[0]"].message
    assert "repeats query_examples[1]" in found["duplicate", "query_examples[2]"].message
    with pytest.raises(UnknownNameError, match="split of topics 'dev'"):
        check_card(card, against=[f"{topics}:dev"])


def test_parts_that_a_model_reads_in_pieces(tiny_encoder: str) -> None:
    from hyperseek.models import load

    card = Card(name="x", description="find all about it", query_examples=("cat", "dog", "sea"),
                doc_examples=("moon", "bird " * 100, "tree"))  # fmt: skip
    [found] = check_card(card, model=load(tiny_encoder, device="cpu"))
    assert (found.kind, found.place, found.wrong) == ("split", "doc_examples[1]", False)
    assert "has 102 tokens, and the model reads 64" in found.message


def test_comparing(tiny_encoder: str) -> None:
    from hyperseek.models import load

    one = Card(name="a", description="find cats", query_examples=("a cat", "a dog", "a bird"),
               doc_examples=("cats and dogs are animals that live in a house",))  # fmt: skip
    assert compare_cards(one, one.model_copy(update={"name": "b"})).same
    other = Card(name="b", description="find the sea", query_examples=("A  Cat", "the sea"),
                 doc_examples=("the sea", "cats and dogs are animals that live in a house. And so on."))  # fmt: skip
    found = compare_cards(one, other)
    assert (found.same, found.shared_queries, found.cosines) == (False, ("a cat",), {})
    assert found.shared_documents == one.doc_examples
    assert (found.query_overlap, found.document_overlap) == (0.25, 0.5)
    model = load(tiny_encoder, device="cpu")
    same = compare_cards(one, one, model=model).cosines
    assert same == pytest.approx({"about": 1, "queries": 1, "documents": 1})
    apart = compare_cards(one, other, model=model).cosines
    assert all(-1 <= value < 0.9999 for value in apart.values())
    assert set(compare_cards(one, Card(name="c", description="x"), model=model).cosines) == {"about"}


def test_on_the_command_line(topics: Path, tmp_path: Path, tiny_encoder: str) -> None:
    def run(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["prepare", "card", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result.stdout

    file = tmp_path / "card.yaml"
    run(topics, "--output", file, "--queries", 4)
    card = read_card(file)
    assert len(card.query_examples) == 4
    assert json.loads(run(topics, "--queries", 4)) == card.to_mapping()
    assert "wrong: description is still a placeholder" in run(file, "--check", code=1)
    Card(**{**card.model_dump(), "description": "Find all about it", "domain": "", "query_type": ""}).write(file)
    checked = run(file, "--check", "--against", topics, "--model", tiny_encoder, "--device", "cpu")
    assert "wrong" not in checked
    told = run(file, "--compare", file, "--model", tiny_encoder, "--device", "cpu")
    assert "the cards differ in their names at most\n4 shared example queries, 100% of all" in told
    assert "cosine of about: 1.000" in told
    for arguments, message in [
        ((topics, "-o", file), "exists; name another file"),
        ((topics, "--against", topics), "--against is for --check"),
        ((file, "--check", "--compare", file), "two things"),
        ((file, "--check", "-o", file), "--output is for a draft"),
    ]:
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, ["prepare", "card", *map(str, arguments)], catch_exceptions=False)
