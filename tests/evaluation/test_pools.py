"""Pools for people to judge, the page to judge on, and what they filled in."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperseek.data import Dataset, read_qrels, write_qrels
from hyperseek.errors import DataError, InputError
from hyperseek.evaluation import PoolItem, Protocol, Ranking, cohens_kappa, make_pool, merge_judgements, write_pool
from hyperseek.types import Document, Query

SCRIPT = "</script><script>window.hacked = 1</script>"
IMAGE = "<img src=x onerror='window.hacked=1'>"
CHROMIUM = Path("/usr/bin/chromium")
DATASET = Dataset.from_records(
    "toys",
    [
        Document("d0", f"cat {SCRIPT}", IMAGE),
        Document("d1", "=HYPERLINK(1)"),
        Document("d/2 \u202e<b>", "a \u202eriver"),
        *(Document(f"d{n}", f"text {n}", f"title {n}") for n in range(3, 9)),
    ],
    queries=[Query("q1", f"cat {IMAGE}"), Query("q2", "sea")],
    qrels={"test": {"q1": {"d3": 1}, "q2": {"d8": 0}}},
)


def ranking(name: str, first: str, second: str) -> Ranking:
    run = {
        query: {one if one.startswith("d") else f"d{one}": -float(rank) for rank, one in enumerate(order.split(","))}
        for query, order in (("q1", first), ("q2", second))
    }
    return Ranking(name, run, Protocol(qrels="x"))


RANKINGS = [ranking("a", "0,3,1", "8,7,6"), ranking("b", "d/2 \u202e<b>,0,5", "5,7,4")]


def test_a_pool_is_the_union_in_random_order_without_what_is_judged():
    items = make_pool(RANKINGS, DATASET, depth=2)
    found = {query: [item.document_id for item in items if item.query_id == query] for query in ("q1", "q2")}
    assert {query: set(names) for query, names in found.items()} == {
        "q1": {"d0", "d/2 \u202e<b>"},
        "q2": {"d7", "d5"},
    }
    assert set(PoolItem.model_fields) == {"query_id", "query", "document_id", "title", "text", "grade"}  # no ranks
    assert items == make_pool(list(reversed(RANKINGS)), DATASET, depth=2)  # nor do systems decide the order
    again = make_pool(RANKINGS, DATASET, depth=2, judged=True)
    assert {item.document_id for item in again} - {item.document_id for item in items} == {"d3", "d8"}
    orders = {tuple(item.document_id for item in make_pool(RANKINGS, DATASET, depth=3, seed=seed)) for seed in range(9)}
    assert len(orders) > 1
    with pytest.raises(InputError, match="depth of at least 1"):
        make_pool(RANKINGS, DATASET, depth=0)
    with pytest.raises(InputError, match="every document in the top 1 is judged"):
        make_pool([ranking("a", "3", "8")], DATASET, depth=1)


def test_files_filled_in_are_read_back(tmp_path):
    items = make_pool(RANKINGS, DATASET, depth=3)
    write_pool(items, tmp_path / "pool.csv")
    write_pool(items, tmp_path / "pool.jsonl")
    with (tmp_path / "pool.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["document_id"] for row in rows] == [item.document_id for item in items]
    texts = {row["document_id"]: row["text"] for row in rows}
    assert texts["d1"] == "'=HYPERLINK(1)"  # no formula
    assert "\u202e" not in texts["d/2 \u202e<b>"]
    for place, row in enumerate(rows):
        row["grade"] = "" if place == 0 else str(place % 3)
    with (tmp_path / "anna.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines = [json.loads(line) for line in (tmp_path / "pool.jsonl").read_text().splitlines()]
    assert lines[0] == items[0].model_dump()
    for place, line in enumerate(lines):
        line["grade"] = place % 3 if place < 4 else None
    (tmp_path / "ben.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    merged = merge_judgements([tmp_path / "anna.csv", tmp_path / "ben.jsonl"])
    assert merged.judged == {"anna.csv": len(items) - 1, "ben.jsonl": 4}
    assert merged.empty == {"anna.csv": 1, "ben.jsonl": len(items) - 4}
    assert (merged.agreement[0].both, merged.agreement[0].same, merged.agreement[0].kappa) == (3, 1.0, 1.0)
    assert sum(map(len, merged.qrels.values())) == len(items)
    assert not merged.conflicts
    with pytest.raises(DataError, match="judges nothing"):
        merge_judgements([tmp_path / "pool.csv"])


def judged(path: Path, grades: dict[str, int]) -> Path:
    path.write_text("".join(json.dumps({"query_id": "q", "document_id": name, "grade": grade}) + "\n"
                            for name, grade in grades.items()))  # fmt: skip
    return path


def test_conflicts_are_listed_and_resolved(tmp_path):
    files = [
        judged(tmp_path / "a.jsonl", {"x": 0, "y": 2, "z": 1}),
        judged(tmp_path / "b.jsonl", {"x": 3, "y": 2}),
        judged(tmp_path / "c.jsonl", {"x": 1, "w": 1}),
    ]
    wanted = {"leave-out": None, "lowest": 0, "highest": 3, "median": 1}
    for way, grade in wanted.items():
        merged = merge_judgements(files, conflicts=way)
        assert [(one.document_id, one.grades) for one in merged.conflicts] == [
            ("x", {"a.jsonl": 0, "b.jsonl": 3, "c.jsonl": 1})
        ]
        assert merged.qrels == {"q": {**({} if grade is None else {"x": grade}), "y": 2, "z": 1, "w": 1}}
    assert "1 documents with different grades" in merged._repr_html_()
    write_qrels({"q": {"x": 1, "v": 2}}, tmp_path / "old.tsv")
    assert merge_judgements([tmp_path / "old.tsv", files[2]]).qrels["q"] == {"x": 1, "v": 2, "w": 1}


def test_kappa_equals_published_and_computed_values():
    # Cohen's own example form: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no give 0.4.
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([(0, 0)] * 5) is None
    assert cohens_kappa([]) is None
    metrics = pytest.importorskip("sklearn.metrics")
    draw = random.Random(0)
    for _ in range(20):
        pairs = [(draw.randint(0, 3), draw.randint(0, 3)) for _ in range(30)]
        first, second = zip(*pairs, strict=True)
        assert cohens_kappa(pairs) == pytest.approx(metrics.cohen_kappa_score(first, second))
        weighted = metrics.cohen_kappa_score(first, second, weights="linear", labels=[0, 1, 2, 3])
        assert cohens_kappa(pairs, weighted=True) == pytest.approx(weighted)


@pytest.mark.parametrize(("line", "message"), [
    ('{"query_id": "q", "document_id": "d", "grade": 1.5}', "whole number, such as 0 to 3, not 1.5"),
    ('{"query_id": "q", "document_id": "d", "grade": true}', "whole number"),
    ('{"query_id": "q", "document_id": "d", "grade": "high"}', "whole number"),
    ('{"query_id": 7, "document_id": "d", "grade": 1}', "needs a query_id, a string"),
    ('{"query_id": "q", "grade": 1}', "needs a document_id"),
    (
        '{"query_id": "q", "document_id": "d", "grade": 1}\n{"query_id": "q", "document_id": "d", "grade": 2}',
        "after 1; keep one",
    ),
    ("[1]", "needs a JSON object"),
])  # fmt: skip
def test_bad_files(tmp_path, line, message):
    (tmp_path / "bad.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        merge_judgements([tmp_path / "bad.jsonl"])


def test_mistakes(tmp_path):
    with pytest.raises(InputError, match="different names"):
        merge_judgements([])
    with pytest.raises(InputError, match="leave-out, lowest, highest or median"):
        merge_judgements([judged(tmp_path / "a.jsonl", {"x": 1})], conflicts="mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\.jsonl, \.csv or \.html"):
        write_pool([], tmp_path / "pool.txt")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    path = tmp_path_factory.mktemp("judging") / "pool.html"
    write_pool(make_pool(RANKINGS, DATASET, depth=3), path, name=f"toys {IMAGE}")
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=CHROMIUM if CHROMIUM.exists() else None)
        except playwright.Error as error:
            pytest.skip(f"needs Chromium: {str(error).splitlines()[0]}")
        opened = browser.new_page()
        opened.path, opened.faults, opened.asked = path, [], []
        opened.on("pageerror", lambda error: opened.faults.append(str(error)))
        opened.on("request", lambda request: opened.asked.append(request.url))
        yield opened
        browser.close()


def exported(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    waiting.value.save_as(folder / waiting.value.suggested_filename)
    return folder / waiting.value.suggested_filename


def test_the_page_judges_by_keys_keeps_and_exports(page, tmp_path):
    items = make_pool(RANKINGS, DATASET, depth=3)
    page.goto(page.path.as_uri())
    assert page.get_by_role("heading", level=2).inner_text() == items[0].query
    page.keyboard.press("3")
    page.keyboard.press("0")
    page.keyboard.press("7")  # no grade
    assert page.locator("#place").inner_text() == f"Document 3 of {len(items)}, 2 judged"
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("radio", name="0 not relevant").is_checked()
    page.get_by_role("radio", name="1 related").check()  # another grade, and the page stays
    assert page.locator("#place").inner_text().startswith("Document 2")
    page.get_by_label("Assessor").fill("Anna 3")  # no grade, though it has a digit
    page.reload()
    assert page.locator("#place").inner_text() == f"Document 2 of {len(items)}, 2 judged"
    assert page.get_by_label("Assessor").input_value() == "Anna 3"
    page.get_by_role("button", name="Next without a grade").click()
    assert page.locator("#place").inner_text().startswith("Document 3")
    page.keyboard.press("2")
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Clear grade").click()
    wanted = [(items[0], 3), (items[1], 1)]
    for button in ("Export JSONL", "Export CSV"):
        file = exported(page, button, tmp_path)
        assert file.name.startswith("judged-Anna-3.")
        merged = merge_judgements([file])
        assert merged.qrels == {
            query: {item.document_id: grade for item, grade in wanted if item.query_id == query}
            for query in dict.fromkeys(item.query_id for item, _ in wanted)
        }
    page.evaluate("localStorage.clear()")
    page.reload()
    assert "0 judged" in page.locator("#place").inner_text()
    page.set_input_files("#file", tmp_path / "judged-Anna-3.jsonl")
    page.wait_for_function("document.getElementById('place').textContent.includes('2 judged')")


def test_the_page_shows_strangers_texts_as_texts(page):
    page.goto(page.path.as_uri())
    seen = ""
    while True:
        seen += page.locator("main").inner_text()
        if page.get_by_role("button", name="Next", exact=True).is_disabled():
            break
        page.keyboard.press("ArrowRight")
    assert SCRIPT in seen
    assert IMAGE in seen
    assert "\u202e" not in seen
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.faults == []
    assert {url.partition(":")[0] for url in page.asked} <= {"file", "blob"}  # nothing from a network
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, progress')].filter(one => !one.labels?.length && "
        "!one.textContent.trim() && !one.getAttribute('aria-label')).map(one => one.id)"
    )
    assert unnamed == []


def test_judging_by_tab_and_arrows_alone(page):
    page.goto(page.path.as_uri())
    page.evaluate("localStorage.clear()")
    page.reload()
    page.get_by_role("radio").first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")  # within the grades, this is the next grade
    assert page.get_by_role("radio", name="1 related").is_checked()
    assert page.locator("#place").inner_text().startswith("Document 1")
    assert page.locator("#status").inner_text() == "1, related"


def test_a_file_of_merged_judgements_is_read_as_judgements(tmp_path):
    merged = merge_judgements([judged(tmp_path / "a.jsonl", {"x": 0, "y": 2})])
    write_qrels(merged.qrels, tmp_path / "merged.tsv")
    assert read_qrels(tmp_path / "merged.tsv") == {"q": {"x": 0, "y": 2}}


def test_ids_that_begin_like_formulas_come_back_from_a_spreadsheet(tmp_path):
    ids = ["=1+1", "'=2", "@x", "plain", "'tis", "-3"]
    items = [PoolItem(query_id=name, query="a", document_id=name, title="", text="", grade=1) for name in ids]
    write_pool(items, tmp_path / "pool.csv")
    with (tmp_path / "pool.csv").open(newline="") as file:
        cells = [cell for row in list(csv.reader(file))[1:] for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "@", "-"))]
    assert merge_judgements([tmp_path / "pool.csv"]).qrels == {name: {name: 1} for name in ids}


def test_a_pool_without_a_document_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing to judge"):
        write_pool([], tmp_path / "pool.html")
    with pytest.raises(InputError, match="other documents"):
        make_pool([ranking("a", "d77", "d78")], DATASET)
