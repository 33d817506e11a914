"""The web page in a real browser: what a person finds, sees and does there, and what strangers' texts cannot do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from hyperseek import Document, Index, load
from hyperseek.data import open_dataset
from hyperseek.index import sync
from hyperseek.models import ModelConfig, build

from .conftest import running, texts

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
CHROMIUM = Path("/usr/bin/chromium")

SENTENCE = "The heron waits beside the weir until the last barge has passed."
SCRIPT = "<script>window.hacked = 1</script>"
IMAGE = "<img src=x onerror='window.hacked=1'>"
HOSTILE = [
    Document(IMAGE, f"the cat {SCRIPT} and the dog", f"{IMAGE} cat", {"<b>key</b>": f'"><svg onload="{SCRIPT}">'}),
    Document("a/b c?d#e%2F..\u202egpj.exe", "cat \x1b[31mred\x1b[0m dog \u202eevil\u202c bird", "a \u202ecat", {}),
    Document(
        "../../etc/passwd", "bird cat \U0001f600 fish \U0001f600 dog", "\U0001f600 cat", {"it's": "'; OR TRUE --"}
    ),
]
KINDS = [
    Document(f"d{number}", text, f"title {number}", {
        "year": 2000 + number % 10, "venue": ("ACL", "it's")[number % 2], "tags": ["old", "new"][: number % 3],
        "open": number % 2 == 0,
    })
    for number, text in enumerate(texts(40, seed=3))
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=CHROMIUM if CHROMIUM.exists() else None)
        except playwright.Error as error:
            pytest.skip(f"needs Chromium: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Path:
    """A folder of files, with `notes.index` beside it."""
    place = tmp_path_factory.mktemp("page") / "notes"
    place.mkdir()
    lines = [
        f"Line {number} of the long file is about the {'river' if number % 3 else 'road'}." for number in range(1500)
    ]
    lines[900] = SENTENCE
    (place / "long.txt").write_text("\n".join(lines))
    for number, text in enumerate(texts(12)):
        (place / f"note{number}.md").write_text(f"# Note {number}\n\n{text}.\n\n```\nx = {number}\n```\n")
    index = Index.build(place.parent / "notes.index", [], load(tiny_model), passages={"tokens": 48})
    sync(index, open_dataset(place))
    return place


@pytest.fixture(scope="module")
def url(folder: Path, tiny_model: str, tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of indexes of several kinds: `notes`, and `kinds`, `odd`, `late`, `levels` and `card`."""
    from hyperseek.serve import create_app

    place = tmp_path_factory.mktemp("indexes")
    indexes = {"notes": folder.parent / "notes.index"}
    dense = load(tiny_model)
    for name, documents in {"kinds": KINDS, "odd": HOSTILE}.items():
        indexes[name] = place / name
        Index.build(indexes[name], documents, dense)
    families: dict[str, dict[str, Any]] = {
        "late": {"family": "late"},
        "levels": {"family": "levels", "levels": {"num_segments": 3}},
        "card": {"family": "card", "pooling": "mean", "normalize": True, "card": {"width": 16}},
    }
    for name, values in families.items():
        build(ModelConfig.from_mapping({"trunk": tiny_encoder, **values}), device="cpu").save(place / f"{name}-model")
        indexes[name] = place / name
        Index.build(indexes[name], KINDS, load(place / f"{name}-model"))
    with running(create_app({name: str(where) for name, where in indexes.items()}, keys=())) as address:
        yield address


class Watched:
    """A page, and what went wrong on it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        page.set_default_timeout(10_000)
        page.on("console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: self.hosts.add(urlsplit(asked.url).netloc))


@pytest.fixture
def opened(browser: Any, url: str) -> Iterator[Callable[..., Any]]:
    """Open the page with parts of its address; at the end nothing must have gone wrong that was not expected."""
    contexts, seen = [], []

    def open_(query: str = "", *, base: str = url, expected: str = "", **options: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}))
        watched = Watched(contexts[-1].new_page())
        seen.append((watched, base, expected))
        watched.page.goto(f"{base}/{query}")
        return watched.page

    yield open_
    for watched, base, expected in seen:
        assert watched.hosts == {urlsplit(base).netloc}
        assert watched.page.evaluate("window.hacked === undefined")
        assert [fault for fault in watched.faults if not expected or expected not in fault] == []
    for context in contexts:
        context.close()


def side(**settings: Any) -> str:
    """Return settings of a side as a link has them."""
    return quote(json.dumps(settings))


def ids(page: Any, name: str = "A") -> list[str]:
    """Return the ids of the hits of a side."""
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll('[data-side={name}] .hit')].map(one => one.hit.id)"
    )
    return found


def wait_until(page: Any, condition: str) -> None:
    deadline = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def wait_for_ids(page: Any, wanted: set[str]) -> None:
    """Wait until the hits are these documents, in any order."""
    deadline = time.monotonic() + 15
    while set(ids(page)) != wanted:
        assert time.monotonic() < deadline, (ids(page), wanted)
        page.wait_for_timeout(50)


def visible(page: Any, selector: str) -> bool:
    """Whether the first such element is within the window."""
    box = page.locator(selector).first.bounding_box()
    size = page.viewport_size
    return box is not None and 0 <= box["y"] < size["height"] and 0 <= box["x"] < size["width"]


def test_the_files_of_the_page_are_asked_for_again_and_no_others(url: str) -> None:
    for path in ("", "page/page.js", "page/page.css", "page/icon.svg", "page/index.html"):
        answer = httpx.get(f"{url}/{path}").raise_for_status()
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    script = httpx.get(f"{url}/page/page.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = httpx.get(f"{url}/page/page.js", headers={"if-none-match": script.headers["etag"]})
    assert again.status_code == 304
    for path in ("page/none.js", "page/..%2f_app.py", "page/%2e%2e/_app.py", "page//etc/passwd", "page/"):
        answer = httpx.get(f"{url}/{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"]


def test_a_sentence_deep_in_a_long_file_is_found_and_shown(opened: Callable[..., Any]) -> None:
    page = opened(f"?a={side(method='words')}")
    page.fill("#query", SENTENCE)
    page.wait_for_selector(".hit mark")
    assert ids(page)[0] == "long.txt"
    assert "heron" in page.inner_text(".hit .snippet")
    page.click(".hit .title")
    page.wait_for_selector("#reader .passage.at mark")
    wait_until(page, "document.querySelector('#reader .passage.at mark').getBoundingClientRect().top < innerHeight")
    assert visible(page, "#reader .passage.at mark")
    assert {"heron", "weir", "barge"} <= {text.strip() for text in page.locator("#reader .text mark").all_inner_texts()}
    whole = page.evaluate("document.querySelector('#reader .text').textContent")
    assert "Line 0 of" in whole
    assert "Line 1499 of" in whole


def test_an_edit_of_a_file_is_followed(opened: Callable[..., Any], folder: Path) -> None:
    page = opened(f"?a={side(method='words')}&q=albatross+gliding")
    page.wait_for_selector(".empty:not([hidden])")
    (folder / "note3.md").write_text("# Note 3\n\nAn albatross gliding over the water.\n")
    sync(Index.open(folder.parent / "notes.index"), open_dataset(folder))  # as `hyperseek encode` beside the server
    page.wait_for_selector(".hit mark", timeout=20_000)
    assert ids(page) == ["note3.md"]
    page.click(".hit .title")
    page.wait_for_selector("#reader .passage mark")
    (folder / "note3.md").write_text("# Note 3\n\nNo. Two albatross pairs, gliding over land.\n")
    sync(Index.open(folder.parent / "notes.index"), open_dataset(folder))
    wait_until(page, "document.querySelector('#reader .text').textContent.includes('Two albatross pairs')")
    assert page.locator("#reader .passage mark").count() >= 2


def test_the_keyboard_is_enough(opened: Callable[..., Any]) -> None:
    page = opened(f"?a={side(index='kinds')}")
    page.keyboard.press("Tab")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type("cat dog / bird")
    page.wait_for_selector(".hit")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    second = ids(page)[1]
    assert page.evaluate("document.activeElement.closest('li').hit.id") == second
    assert page.evaluate("getComputedStyle(document.activeElement.closest('li')).boxShadow") != "none"
    page.keyboard.press("Enter")
    page.wait_for_selector("#reader .text :text('')")
    assert page.inner_text("#reader-title") == f"title {second[1:]}"
    assert "open=" in page.url
    page.go_back()
    page.wait_for_selector("#reader", state="hidden")
    page.go_forward()
    page.wait_for_selector("#reader .text :text('')")
    assert page.inner_text("#reader-title") == f"title {second[1:]}"
    page.keyboard.press("ArrowRight")
    third = ids(page)[2]
    wait_until(page, f"document.querySelector('#reader-title').textContent === 'title {third[1:]}'")
    page.keyboard.press("Escape")
    page.wait_for_selector("#reader", state="hidden")
    wait_until(page, f"document.activeElement.closest('li').hit.id === '{third}'")
    wait_until(page, "!location.search.includes('open=')")
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("Escape")
    assert page.input_value("#query") == ""
    # Everything that can be clicked can be reached, and has a name.
    names = page.evaluate(
        "[...document.querySelectorAll('button, select, input, a')].filter(one => one.checkVisibility())"
        ".filter(one => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length)).length"
    )
    assert names == 0


def test_a_phone_scrolls_in_one_direction(opened: Callable[..., Any]) -> None:
    page = opened(
        f"?a={side(index='levels')}&q=cat+dog", viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    )
    page.wait_for_selector(".hit")
    for step in ("#show-filters", "[data-side=A] summary", "#show-other", ".switch:visible", "#show-map"):
        page.locator(step).first.tap()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("[data-side=B] .hit").first.is_visible()
    page.locator("[data-side=B] .hit .title").first.tap()
    page.wait_for_selector("#reader .text *")
    page.click("#reader-tab-why")
    page.wait_for_selector(".stages li")
    assert page.evaluate("document.querySelector('#reader').scrollWidth") <= 360
    assert (
        page.evaluate("Math.min(...[...document.querySelectorAll('.tools button')].map(one => one.offsetHeight))") >= 40
    )


PAIRS = [
    ("ink", "paper"), ("ink", "sheet"), ("ink", "soft"), ("ink", "mark"), ("ink", "passage"), ("faint", "paper"),
    ("faint", "sheet"), ("faint", "soft"), ("faint", "tint"), ("accent", "tint"), ("accent", "paper"),
    ("on-accent", "accent"), ("up", "paper"), ("down", "paper"), ("left", "paper"), ("wrong", "sheet"),
    ("second", "second-tint"), ("paper", "second"),
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(opened: Callable[..., Any], scheme: str) -> None:
    page = opened(color_scheme=scheme)

    def luminance(name: str) -> float:
        code = page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
        parts = [int(code[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert (luminance("paper") > 0.5) == (scheme == "light")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground[4:].split(",")[0]) > 128) == (scheme == "light")
    for text, ground in PAIRS:
        low, high = sorted((luminance(text), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)  # WCAG AA


def test_texts_of_strangers_are_shown_as_texts(opened: Callable[..., Any]) -> None:
    page = opened(f"?a={side(index='odd')}&map=1&q={quote('cat dog ' + IMAGE)}", expected="TrustedHTML")
    page.wait_for_selector(".hit")
    assert set(ids(page)) == {document.id for document in HOSTILE}
    page.wait_for_selector(".mark")
    assert IMAGE in page.locator(".hit .title").all_inner_texts()[ids(page).index(IMAGE)]
    shown = page.inner_text("#sides")
    assert "\\u202e" in shown
    assert "\\u001b[31mred" in shown
    assert not {"\u202e", "\x1b"} & set(page.inner_text("body"))
    for document in HOSTILE:
        page.locator(".hit .title").nth(ids(page).index(document.id)).click()
        page.wait_for_selector("#reader .passage")
        if document.metadata:
            page.click("#reader .metadata summary")
        page.click("#reader-tab-why")
        page.wait_for_selector(".stages li")
        page.keyboard.press("Escape")
    # Characters beyond 16 bits count once.
    emoji = page.locator(".hit").nth(ids(page).index(HOSTILE[2].id))
    assert set(emoji.locator("mark").all_inner_texts()) <= {"cat", "dog"}
    assert page.locator("main img, main script, dialog img, dialog script, dialog svg").count() == 0
    assert page.evaluate("document.title").startswith("cat dog <img")
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>x</b>'")


def test_links_of_strangers_are_only_data(opened: Callable[..., Any]) -> None:
    wrong = quote('{"method": {"x": 1}, "options": {"level": "1", "__proto__": 3}, "card": 4, "plan": [1]}')
    page = opened(f"?a={wrong}&b=nonsense&filters={quote('[[1,2],[3,4,5]]')}&k=-3&q=cat&map=1&open={quote(IMAGE)}")
    page.wait_for_selector("#reader .wrong")
    assert "no longer in the index" in page.inner_text("#reader .wrong")
    page.keyboard.press("Escape")
    page.wait_for_selector(".hit")
    assert len(ids(page)) == 10
    page.wait_for_selector("[data-side=B] .hit")


def test_two_sides_say_what_moved(opened: Callable[..., Any], url: str) -> None:
    page = opened(f"?q=cat+dog+bird&a={side(index='kinds', method='exact')}")
    page.wait_for_selector(".hit")
    page.click("#show-other")
    page.select_option("[data-side=B] [aria-label='How to search']", "hybrid")
    page.wait_for_selector("[data-side=B] .move:has-text('▲'), [data-side=B] .move.new")
    wait_until(page, "document.querySelector('[data-side=B] .how span').textContent === 'Hybrid'")
    asked = {"query": "cat dog bird", "index": "kinds"}
    fused = {"kind": "fusion", "sources": [{"kind": "full_text", "n": 100}, {"kind": "auto", "n": 100}]}
    answers = [
        [hit["id"] for hit in httpx.post(f"{url}/search", json=asked | how).json()["queries"][0]["hits"]]
        for how in ({"engine": "exact"}, {"plan": {"stages": [fused]}})
    ]
    before, after = answers
    wait_until(page, f"{json.dumps(after)}.join() === [...document.querySelectorAll('[data-side=B] .hit')]"
               ".map(one => one.hit.id).join()")  # fmt: skip
    assert [ids(page, "A"), ids(page, "B")] == answers
    moves = page.evaluate(
        "[...document.querySelectorAll('[data-side=B] .move [aria-hidden]')].map(one => one.textContent)"
    )

    def move(name: str) -> str:
        if name not in before:
            return "new"
        by = before.index(name) - after.index(name)
        return f"▲ {by}" if by > 0 else f"▼ {-by}" if by < 0 else "="

    assert moves == list(map(move, after))
    common = len(set(before) & set(after))
    assert page.inner_text("[data-side=A] .moved") == f"{common} in common, {10 - common} left"
    assert page.locator("[data-side=A] .move.left").count() == 10 - common
    assert page.locator(".moves path").count() == 10
    assert page.locator(".moves path.left").count() == 10 - common
    # Right and left lead to the same document on the other side.
    page.focus("#query")
    page.keyboard.press("ArrowDown")
    shared = before[0]
    page.keyboard.press("ArrowRight")
    if shared in after:
        assert page.evaluate("document.activeElement.closest('li').hit.id") == shared
    assert page.evaluate("document.activeElement.closest('[data-side]').dataset.side") == "B"


def test_filters_find_what_they_say(opened: Callable[..., Any], url: str) -> None:
    page = opened(f"?q=cat&k=50&a={side(index='kinds')}", expected="400 (Bad Request)")
    page.wait_for_selector(".hit")

    def finds(field: str, comparison: str, value: str | None, meets: Callable[[Document], bool]) -> None:
        page.select_option("#filters [aria-label=Field]", field)
        page.select_option("#filters [aria-label=Comparison]", comparison)
        if value is not None:
            page.fill("#filters [aria-label=Value]", value)
        wait_for_ids(page, {document.id for document in KINDS if meets(document)})

    page.click("#show-filters")
    finds("year", "least", "2007", lambda one: one.metadata["year"] >= 2007)
    assert page.inner_text("#show-filters b") == "1"
    finds("venue", "is", "it's", lambda one: one.metadata["venue"] == "it's")
    finds("venue", "contains", "%", lambda one: False)
    finds("venue", "contains", "T'", lambda one: "t'" in one.metadata["venue"])
    finds("tags", "has", "new", lambda one: "new" in one.metadata["tags"])
    finds("open", "true", None, lambda one: one.metadata["open"])
    finds("title", "begins", "title 3", lambda one: one.title.startswith("title 3"))
    finds("year", "is", "20x", lambda one: True)
    assert "number" in page.inner_text("#filters .wrong")
    finds("venue", "is", "x' OR TRUE --", lambda one: False)
    assert "meets the filters" in page.inner_text(".empty:not([hidden])")
    page.click("#filters [aria-label='Remove this filter']")
    page.click("#filters summary")
    page.fill("#sql", "year < 2002")
    early = {document.id for document in KINDS if document.metadata["year"] < 2002}
    wait_for_ids(page, early)
    link = page.url
    rows = quote(json.dumps([["tags", "has", "new"], ["open", "true", ""]]))
    kept = opened(f"?q=cat&k=50&a={side(index='kinds')}&filters={rows}")
    wait_for_ids(kept, {one.id for one in KINDS if "new" in one.metadata["tags"] and one.metadata["open"]})
    assert kept.inner_text("#show-filters b") == "2"
    page.fill("#sql", "nonsense <")
    page.wait_for_selector("#failure:not([hidden])")
    assert "nonsense" in page.inner_text("#failure")
    again = opened(link.removeprefix(url + "/"))
    wait_for_ids(again, early)


def test_a_hit_is_explained(opened: Callable[..., Any], url: str) -> None:
    page = opened(f"?q=cat+dog&a={side(index='late')}")
    page.wait_for_selector(".hit")
    page.click(".hit .title")
    page.click("#reader-tab-why")
    page.wait_for_selector("#reader table")
    assert "recall 1.000" in page.inner_text(".stages")
    assert "ms" in page.inner_text(".stages")
    assert "Rank 1 of 10" in page.inner_text(".verdict")
    tokens = page.locator("#reader td:first-child").all_inner_texts()
    assert {"cat", "dog"} <= set(tokens)
    shares = [float(text) for text in page.locator("#reader td:last-child").all_inner_texts()]
    score = float(page.inner_text(".verdict").split("score of ")[1].split(":")[0])
    assert sum(shares) == pytest.approx(score, abs=0.01)
    words = {"query": "cat dog", "index": "late", "k": 100, "texts": False, "plan": {"kind": "full_text", "n": 100}}
    found = [hit["id"] for hit in httpx.post(f"{url}/search", json=words).json()["queries"][0]["hits"]]
    names, told_ranks = (
        page.locator(f".elsewhere {part}").all_inner_texts() for part in ("b", "span > span:first-child")
    )
    ranks = dict(zip(names, told_ranks, strict=True))
    assert ranks.keys() == {"Exact", "Words only"}
    assert ranks["Exact"].startswith("rank 1,")
    own = ids(page)[0]
    told = f"rank {found.index(own) + 1}," if own in found else "not among"
    assert ranks["Words only"].startswith(told)


@pytest.mark.parametrize(("name", "kind"), [("kinds", "plane"), ("levels", "disk")])
def test_the_map_has_the_hits_on_it(opened: Callable[..., Any], url: str, name: str, kind: str) -> None:
    found = httpx.get(f"{url}/map", params={"index": name}).json()
    assert found["kind"] == kind
    assert {one["id"] for one in found["shown"]} == {document.id for document in KINDS}
    far = max(one["at"][0] ** 2 + one["at"][1] ** 2 for one in found["shown"])
    assert far < 1 if kind == "disk" else far <= 2
    page = opened(f"?q=cat+dog&map=1&a={side(index=name)}")
    page.wait_for_selector(".mark")
    assert sorted(page.locator(".mark").all_inner_texts()) == sorted(map(str, range(1, 11)))
    first = page.get_by_label("Rank 1: ", exact=False).first
    first.focus()
    assert page.locator(".hit.at").count() == 1
    assert page.inner_text(".tip") in page.inner_text(".hit.at h2") + "\n" + page.inner_text(".hit.at .above")
    page.focus("#map canvas")
    page.keyboard.press("ArrowRight")
    title = page.inner_text(".tip")
    assert page.inner_text("#map-told") == title.split("\n")[0]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_selector("#reader[open]")
    page.keyboard.press("Escape")
    # Once the reader is closed the page goes back and moves the focus, which would end the filling in of a field.
    wait_until(page, "!new URLSearchParams(location.search).has('open')")
    page.fill("#query", "")
    wait_until(page, "document.querySelectorAll('.mark').length === 0")


def test_levels_and_cards_are_asked_for(opened: Callable[..., Any], url: str) -> None:
    page = opened(f"?q=cat+dog&a={side(index='levels')}")
    page.wait_for_selector(".hit")
    page.click(".how summary")

    def asks(options: dict[str, Any]) -> Callable[[Any], bool]:
        return lambda asked: asked.url.endswith("/search") and asked.post_data_json.get("options") == options

    with page.expect_request(asks({"level": 3, "document_level": 3})):
        page.select_option("[aria-label=Levels]", "two")
    with page.expect_request(asks({"level": 1, "document_level": 3})):
        page.fill("[aria-label='Level of the query']", "1")
    with page.expect_request(asks({"broaden": 0.5})):
        page.select_option("[aria-label=Levels]", "broaden")
    body = {"query": "cat dog", "index": "levels", "broaden": 0.5}
    hits = httpx.post(f"{url}/search", json=body).json()["queries"][0]["hits"]
    wait_for_ids(page, {hit["id"] for hit in hits})

    page.select_option("[aria-label=Index]", "card")
    page.click(".card > summary")
    page.fill("[aria-label=Name]", "sea")
    page.click("text=Apply the card")
    assert "description" in page.inner_text(".card .wrong")
    page.fill("[aria-label='What makes a document relevant']", "documents about the sea")
    page.fill("[aria-label='Queries of the task, one a line']", "what is the sea\n\nfish in the sea")
    with page.expect_request(lambda asked: asked.url.endswith("/search")) as asked:
        page.click("text=Apply the card")
    card = {
        "version": 1, "name": "sea", "description": "documents about the sea",
        "query_examples": ["what is the sea", "fish in the sea"],
    }  # fmt: skip
    assert asked.value.post_data_json["card"] == card
    page.click(".card details summary")
    judged = [{"query": "a", "document": "b", "grade": 2}]
    page.fill("[aria-label='Card in JSON']", json.dumps(card | {"name": "lake", "judged": judged}))
    assert page.input_value("[aria-label=Name]") == "lake"
    page.fill("[aria-label=Domain]", "water")
    with page.expect_request(lambda asked: asked.url.endswith("/search")) as asked:
        page.click("text=Apply the card")
    assert asked.value.post_data_json["card"] == card | {"name": "lake", "judged": judged, "domain": "water"}
    page.fill("[aria-label='Card in JSON']", "{not json")
    page.click("text=Apply the card")
    assert "not JSON" in page.inner_text(".card .wrong")


def test_late_answers_are_dropped(opened: Callable[..., Any]) -> None:
    page = opened(f"?a={side(index='kinds')}", expected="ERR_")
    waiting: list[Any] = []

    def slow(route: Any) -> None:
        if route.request.post_data_json["query"] == "cat":
            waiting.append(route)
        else:
            route.continue_()

    page.route("**/search", slow)
    page.fill("#query", "cat")
    wait_until(page, "document.querySelector('.side').getAttribute('aria-busy') === 'true'")
    page.wait_for_timeout(200)
    page.fill("#query", "sea star moon")
    page.wait_for_selector(".hit")
    shown = ids(page)
    for route in waiting:  # its request was ended, so nothing may come of it
        with suppress(playwright.Error):
            route.fulfill(
                json={"queries": [{"hits": [{"id": "late", "score": 1.0, "title": "late"}]}], "milliseconds": 1}
            )
    page.wait_for_timeout(200)
    assert len(waiting) == 1
    assert ids(page) == shown
    assert "late" not in shown


def test_a_busy_server_is_asked_again_and_a_lost_one_is_said(opened: Callable[..., Any]) -> None:
    page = opened(f"?a={side(index='kinds')}", expected="Failed to load resource")
    answers = [429]

    def busy(route: Any) -> None:
        if answers:
            error = {"error": {"type": "Busy", "message": "too many requests wait"}}
            route.fulfill(status=answers.pop(), json=error, headers={"retry-after": "1"})
        else:
            route.continue_()

    page.route("**/search", busy)
    page.fill("#query", "cat")
    page.wait_for_selector("#failure:not([hidden])")
    assert page.inner_text("#failure") == "Too many requests wait Trying again in a moment."
    page.wait_for_selector(".hit")
    assert page.is_hidden("#failure")
    page.unroute("**/search")
    page.context.set_offline(True)
    page.fill("#query", "dog")
    page.wait_for_selector("#failure:not([hidden])")
    assert "does not answer" in page.inner_text("#failure")
    page.context.set_offline(False)
    page.fill("#query", "dogs")
    wait_until(page, "document.querySelector('#failure').hidden")


def test_a_server_that_is_starting_is_waited_for(opened: Callable[..., Any]) -> None:
    page = opened(expected="503")
    answers = [json.dumps({"error": {"type": "Loading", "message": "the server is loading its indexes"}})]

    def loading(route: Any) -> None:
        if answers:
            route.fulfill(status=503, body=answers.pop(), content_type="application/json")
        else:
            route.continue_()

    page.route("**/indexes", loading)
    page.goto(page.url + f"?q=cat&open=d1&a={side(index='kinds')}")
    page.wait_for_selector("#failure:not([hidden])")
    assert page.inner_text("#failure") == "The server is loading its indexes"
    page.wait_for_selector("#reader[open]")
    assert page.is_hidden("#failure")
    page.unroute("**/indexes")
    page.route("**/indexes", lambda route: route.fulfill(json=[]))
    page.goto(page.url)
    page.wait_for_selector("#failure:has-text('no index')")


def test_a_key_is_asked_for_once_and_kept_in_the_tab(
    opened: Callable[..., Any], make_index: Callable[..., Path]
) -> None:
    from hyperseek.serve import create_app

    with running(create_app({"notes": str(make_index("kept"))}, keys=("a-long-key",))) as guarded:
        page = opened("?q=cat+dog", base=guarded, expected="401")
        page.wait_for_selector("#ask-key[open]")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for _ in range(5):  # as often as it looks in some seconds
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#ask-key .wrong:not([hidden])")
        page.fill("#key", "a-long-key")
        page.keyboard.press("Enter")
        page.wait_for_selector(".hit")
        assert page.is_hidden("#ask-key")
        assert sum(one.endswith("/indexes") for one in asked) <= 4  # one for each key, and one of a slow machine
        assert "a-long-key" not in page.url
        assert page.evaluate("localStorage.length + document.cookie.length") == 0
        assert page.evaluate("Object.values(sessionStorage)") == ["a-long-key"]
