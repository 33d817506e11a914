"""The client has the methods, results and errors of an index: against a real server, and against ones that are odd."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest
import torch
from serve_fixtures import running

import hyperseek
from hyperseek import Document, HyperseekError, Index
from hyperseek.cards import Card
from hyperseek.errors import (
    ArgumentError,
    ConfigError,
    InputError,
    MissingDocumentError,
    ServerError,
    UnknownNameError,
)
from hyperseek.plan import Auto, FullText, Rescore
from hyperseek.serve import RemoteIndex


@pytest.fixture(scope="module")
def folder(make_index: Callable[..., Path]) -> Path:
    return make_index("long", 40, passages={"tokens": 16, "overlap": 2})


@pytest.fixture(scope="module")
def address(folder: Path, make_index: Callable[..., Path]) -> Iterator[str]:
    from hyperseek.serve import ServeSettings, create_app

    places = {"notes": str(folder), "other": str(make_index("other", 5))}
    with running(create_app(places, settings=ServeSettings(writable=True), keys=("right",))) as url:
        yield url


@pytest.fixture
def remote(address: str) -> Iterator[RemoteIndex]:
    with hyperseek.connect(address, "notes", api_key="right", timeout=20) as index:
        yield index


Families: TypeAlias = dict[str, tuple[Index, RemoteIndex]]
QUERIES = ["cat dog sea", "python module", "sun moon star tree"]


def test_hits_are_those_of_the_index(remote: RemoteIndex, folder: Path) -> None:
    index = Index.open(folder)
    for arguments in (
        {"k": 3},
        {"k": 50, "where": "year > 2004", "combine": "soft"},
        {"plan": [Auto(n=5) | FullText(n=5), Rescore()]},
        {"plan": "hybrid", "texts": False},
        {"engine": "exact", "exclude": [["d1", "d2"], None, "d3"], "options": {}, "level": None},
    ):
        ours: Any = index.search(QUERIES, **arguments)  # type: ignore[arg-type]
        theirs: Any = remote.search(QUERIES, **arguments)  # type: ignore[arg-type]
        assert theirs == ours
        for one, other in zip(ours, theirs, strict=True):
            assert [hit.rank for hit in other] == list(range(1, len(one) + 1))
            if arguments.get("texts", True):
                assert [hit.snippet for hit in other] == [hit.snippet for hit in one]
                assert [hit.passages for hit in other] == [hit.passages for hit in one]
    single = remote.search("cat dog sea", k=2)
    assert single == index.search("cat dog sea", k=2)
    assert type(single).__name__ == "Hits"
    assert single[0].matches == ()
    many = ["cat", "dog sea"] * 70  # of several requests
    assert remote.search(many, k=1, exclude=[["d0"]] * 140) == index.search(many, k=1, exclude=[["d0"]] * 140)


def test_threads_share_a_connection(remote: RemoteIndex, folder: Path) -> None:
    expected = [[hit.id for hit in hits] for hits in Index.open(folder).search(QUERIES, k=5)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: remote.search(QUERIES[number % 3], k=5), range(60)))
    # The last digits of scores depend on what is encoded together.
    assert [[hit.id for hit in hits] for hits in found] == [expected[number % 3] for number in range(60)]


def test_an_explanation_has_the_lines_of_one(remote: RemoteIndex, folder: Path) -> None:
    told, ours = remote.explain(QUERIES, recall=True, k=5), Index.open(folder).explain(QUERIES, recall=True, k=5)
    assert told.hits == ours.hits
    assert (told.documents, told.passages, told.reason) == (ours.documents, ours.passages, ours.reason)
    assert [stage.recall for stage in told.stages] == [stage.recall for stage in ours.stages]
    without = [[line.partition(":")[0] for line in each.lines()] for each in (told, ours)]
    assert without[0] == without[1]
    assert "stage" in told._repr_html_()
    assert remote.explain("cat").stages[0].recall is None
    with pytest.raises(InputError, match="no queries to explain"):
        remote.explain([])


def test_documents_are_added_replaced_got_and_deleted(address: str) -> None:
    index = hyperseek.connect(address, "other", api_key="right")
    odd_ids = ["../x", "a\nb", "?index=notes", "."]
    assert index.add((name, "stone") for name in odd_ids) == len(odd_ids)
    assert [index[name].id for name in odd_ids] == odd_ids
    assert index.delete(odd_ids) == len(odd_ids)
    before = len(index)
    new = [Document("a/b c?ü", "cat cat", "Cat", {"year": 3, "deep": {"x": [None, 1.5]}}), ("p", "sea")]
    assert index.add(new) == 2
    assert len(index) == before + 2
    assert index["a/b c?ü"] == new[0]
    assert "p" in index
    assert "q" not in index
    assert index.get("q") is None
    assert list(index.get(["p", "q", "a/b c?ü"])) == ["p", "a/b c?ü"]
    assert index.search("cat cat", k=1, where="year = 3")[0].metadata == new[0].metadata
    with pytest.raises(InputError, match=r"replace"):
        index.add([("p", "moon")])
    assert index.add([("p", "moon")], replace=True) == 1
    assert index["p"].text == "moon"
    assert index.add((f"many{number}", "tree") for number in range(600)) == 600
    assert index.delete(f"many{number}" for number in range(700)) == 600
    assert index.delete(["a/b c?ü", "p", "q"]) == 2
    assert len(index) == before
    assert "year" in index.fields
    with pytest.raises(MissingDocumentError, match="holds no document 'p'"):
        index["p"]
    with pytest.raises(InputError, match=r"give \['p'\]"):
        index.delete("p")


def test_errors_are_those_of_the_index(remote: RemoteIndex) -> None:
    for error, match, arguments in (
        (UnknownNameError, "unknown engine 'hnws'", {"engine": "hnws"}),
        (UnknownNameError, "understands no options", {"level": 2}),
        (InputError, "there is no field nope", {"where": "nope = 1"}),
        (ConfigError, "there is no stage of the kind", {"plan": {"stages": [{"kind": "nowhere"}]}}),
        (ArgumentError, "has no argument 'top_k'", {"top_k": 3}),
        (InputError, "1 queries; give exclude", {"exclude": []}),
        (InputError, "1 queries; give exclude", {"exclude": 3}),
        (InputError, "ids must be a collection", {"exclude": [3]}),
        (InputError, "ids must be strings", {"exclude": [[3, "a"]]}),
        (InputError, "cannot be sent", {"where": object()}),
        (InputError, "k ", {"k": 0}),
    ):
        with pytest.raises(error, match=match):
            remote.search("cat", **arguments)  # type: ignore[call-overload]
    with pytest.raises(InputError, match=r"query 1 \(from 0\) is blank"):
        remote.search(["cat", " "])
    with pytest.raises(InputError, match="a text or a list of texts"):
        remote.search([1.0, 2.0])  # type: ignore[list-item]
    with pytest.raises(InputError, match="a text or a list of texts"):
        remote.explain(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"holds 3"):
        remote.add([3])
    with pytest.raises(InputError, match="ids must be strings"):
        remote.get([3])  # type: ignore[list-item]


def test_connecting_says_what_is_wrong_and_no_key(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPERSEEK_API_KEY", raising=False)
    with pytest.raises(UnknownNameError, match="known: notes, other"):
        hyperseek.connect(address, "note", api_key="right")
    with pytest.raises(ServerError, match="set HYPERSEEK_API_KEY") as refused:
        hyperseek.connect(address, api_key="wr0ng-secret")
    assert "wr0ng-secret" not in f"{refused.value!r}{refused.value.__cause__!r}{refused.value.__context__!r}"
    monkeypatch.setenv("HYPERSEEK_API_KEY", "right")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which is not asked for this machine
    index = hyperseek.connect(f"{address}/")
    assert index.name == "notes"
    assert repr(index) == f"RemoteIndex({address!r}, 'notes')"
    assert "right" not in str(vars(index))
    for url in ("127.0.0.1:1", "ftp://x", "http://", 3, "http://user:pw@127.0.0.1", "http://[::1"):
        with pytest.raises(InputError, match="address of a server"):
            hyperseek.connect(url)  # type: ignore[arg-type]
    for key in ("ké", "a\nb", 3):
        with pytest.raises(InputError, match="printable ASCII"):
            hyperseek.connect(address, api_key=key)  # type: ignore[arg-type]
    for timeout in (0, float("nan"), float("inf"), 10**400, True):
        with pytest.raises(InputError, match="timeout"):
            hyperseek.connect(address, timeout=timeout)
    monkeypatch.setenv("ALL_PROXY", "nothing://127.0.0.1:9")
    with pytest.raises(InputError, match=r"cannot be used: .*proxy"):
        hyperseek.connect("http://192.0.2.1")
    monkeypatch.delenv("ALL_PROXY")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with pytest.raises(InputError, match=r"cannot be used: .*No such file"):
        hyperseek.connect("http://192.0.2.1")
    index.close()
    with pytest.raises(InputError, match="was closed; connect again"):
        index.search("cat")
    with pytest.raises(ServerError, match="cannot be reached"):
        hyperseek.connect("http://127.0.0.1:9")


class Odd(BaseHTTPRequestHandler):
    """Answers with what a test puts here, one after the other."""

    answers: ClassVar[list[tuple[int, dict[str, str], bytes]]] = []
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status, headers, body = self.answers.pop(0)
        if status == 1:  # too late
            time.sleep(0.5)
            return
        if status == 0:  # as if the connection had been closed meanwhile
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def odd(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[str]:
    Odd.answers, Odd.asked = [*answers], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


LISTED = (200, {}, json.dumps([{"name": "n", "documents": 1, "passages": None, "fields": {}}]).encode())
BUSY = (429, {"Retry-After": "0"}, json.dumps({"error": {"type": "Busy", "message": "try later"}}).encode())


def test_a_busy_server_is_asked_again_until_the_time_is_over() -> None:
    with odd(BUSY, BUSY, (503, {"Retry-After": "0"}, b""), LISTED, LISTED, (0, {}, b""), LISTED) as url:
        index = hyperseek.connect(url)
        assert len(Odd.asked) == 4
        assert len(index) == 1
        assert index.passages is None  # asked again after the connection had been closed
    with odd(BUSY, (429, {"Retry-After": "60"}, BUSY[2])) as url, pytest.raises(ServerError, match="try later"):
        hyperseek.connect(url, timeout=1)
    with odd((1, {}, b"")) as url, pytest.raises(ServerError, match=r"did not answer within 0\.2 s"):
        hyperseek.connect(url, timeout=0.2)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[" * 100_000,
        b"{}",
        b'{"queries": 3}',
        b'{"queries": []}',
        b'{"queries": [{"hits": [{"id": "a"}]}]}',
        b'{"queries": [{"hits": [{"id": "a", "score": "x", "rank": 1}]}]}',
        b'{"queries": [{"hits": [{"id": "a", "score": NaN, "rank": 1}]}]}',
        b'{"queries": [{"hits": [{"id": "a", "score": "NaN", "rank": 1}]}]}',
        b'{"queries": [{"hits": [{"id": "a", "score": 1e999, "rank": 1}]}]}',
        b'{"queries": [{"hits": [{"id": "a", "score": 1, "rank": 1e999}]}]}',
    ],
)
def test_answers_of_other_programs_are_errors_of_ours(answer: bytes) -> None:
    with odd(LISTED, (200, {}, answer), (500, {}, answer), (302, {"Location": "http://127.0.0.1:9/"}, b"")) as url:
        index = hyperseek.connect(url)
        with pytest.raises(ServerError, match="did not answer as a server of hyperseek"):
            index.search("cat")
        with pytest.raises(ServerError, match="status 500"):
            index.search("cat")
        with pytest.raises(ServerError, match="status 302"):
            index.search("cat")


@pytest.mark.parametrize("answer", [b"[]", b'{"queries": []}', b'{"queries": [{"hits": [{"id": "a", "matches": 3}]}]}'])
def test_matches_of_other_programs_are_errors_of_ours(answer: bytes) -> None:
    found = b'{"queries": [{"hits": [{"id": "a", "score": 1, "rank": 1}]}]}'
    with odd(LISTED, (200, {}, found), (200, {}, answer)) as url:
        [hit] = hyperseek.connect(url).search("cat")
        with pytest.raises(ServerError, match="did not answer as a server of hyperseek"):
            hit.matches  # noqa: B018


def test_a_client_loads_no_model() -> None:
    program = (
        "import sys, hyperseek\n"
        "hyperseek.connect\n"
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'fastapi', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.fixture(scope="module")
def families(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Families]:
    """An index of each kind of model whose queries have options or tokens, here and on a server."""
    from hyperseek.models import ModelConfig, build
    from hyperseek.serve import create_app

    folder = tmp_path_factory.mktemp("families")
    settings: dict[str, dict[str, Any]] = {
        "late": {"late": {"dimension": 8}},
        "card": {"pooling": "mean", "normalize": True, "card": {"width": 16}},
        "levels": {"pooling": "mean", "levels": {"d_hrm": 32, "num_segments": 3}},
    }
    texts = ["the cat and the tree", "a dog on the sun", "deep neural network weights", "bird fish star leaf"]
    for name, values in settings.items():
        torch.manual_seed(0)
        model = build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": name, **values}), device="cpu")
        for weight in model.route("query")[-1].parameters():  # as training does
            weight.data += 0.3 * torch.randn_like(weight)
        model.save(folder / name)
        Index.build(folder / f"{name}.index", texts, hyperseek.load(str(folder / name), device="cpu"))
    places = {name: str(folder / f"{name}.index") for name in settings}
    with running(create_app(places, keys=())) as url:
        yield {name: (Index.open(place), hyperseek.connect(url, name)) for name, place in places.items()}


def test_matches_of_tokens_come_when_they_are_needed(families: Families) -> None:
    ours, theirs = families["late"]
    for one, other in zip(ours.search("the cat", k=3), theirs.search("the cat", k=3), strict=True):
        assert one.matches
        assert other.matches == one.matches
        assert other.snippet == one.snippet
    told = theirs.explain(["a dog", "the cat"], k=2)
    assert [[hit.matches for hit in hits] for hits in told.hits] == [
        [hit.matches for hit in hits] for hits in ours.search(["a dog", "the cat"], k=2)
    ]


def test_cards_and_levels_are_passed_on(families: Families, tmp_path: Path) -> None:
    ours, theirs = families["card"]
    card = Card(name="sea", description="about the sea", query_examples=("what is the sea",))
    card.write(tmp_path / "sea.yaml")
    expected = ours.search("fish", card=card)
    assert expected != ours.search("fish")
    for given in (card, str(tmp_path / "sea.yaml"), card.to_json_text()):
        assert theirs.search("fish", card=given) == expected
        assert theirs.search("fish", options={"card": given}) == expected
    with pytest.raises(InputError, match="by name or in options"):
        theirs.search("fish", card=card, options={"card": card})
    with pytest.raises(HyperseekError, match=r"none\.yaml"):
        theirs.search("fish", card=str(tmp_path / "none.yaml"))
    ours, theirs = families["levels"]
    for options in ({"level": 1}, {"broaden": 0.5}, {"relation": "is_a", "radius_weight": 2.0}):
        assert theirs.search("fish", **options) == ours.search("fish", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="level is given as 1"):
        theirs.search("fish", level=1, options={"level": 2})
