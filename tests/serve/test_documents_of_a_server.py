"""Documents that are added through a server, or beside it: at once, for good, and for every request that follows."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_fixtures import running, texts

from hyperseek import Document, Index
from hyperseek.errors import StoreError
from programs import Program, Programs


def ids_found(client: httpx.Client, query: str, **rest: Any) -> list[str]:
    answer = client.post("/search", json={"query": query, "k": 1000, "texts": False, **rest})
    return [hit["id"] for hit in answer.raise_for_status().json()["queries"][0]["hits"]]


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def test_documents_are_added_replaced_read_and_deleted(client: httpx.Client) -> None:
    new = {"id": "folder/a b?.md", "text": "cat <script>", "title": "\u001b[31m", "metadata": {"year": 1999}}
    assert client.post("/documents", json={"documents": [new]}).json() == {"added": 1, "documents": 61}
    assert client.get("/documents/folder/a b%3F.md").raise_for_status().json() == new
    assert ids_found(client, "cat", where="year = 1999") == [new["id"]]
    again = client.post("/documents", json={"documents": [{"id": "x", "text": "dog"}, new]})
    assert again.status_code == 400
    assert "stored already" in again.json()["error"]["message"]
    assert client.get("/documents/x").json()["error"]["type"] == "MissingDocumentError"  # nothing of it was added
    changed = {**new, "text": "dog"}
    twice = client.post("/documents", json={"documents": [changed, changed], "replace": True})
    assert "one id" in twice.json()["error"]["message"]
    assert client.post("/documents", json={"documents": [changed], "replace": True}).json()["documents"] == 61
    got = client.post("/documents/get", json={"ids": [new["id"], "no", "d1"]}).json()["documents"]
    assert [one["id"] for one in got] == [new["id"], "d1"]
    assert got[0]["text"] == "dog"
    gone = client.request("DELETE", "/documents", json={"ids": [new["id"], "no"]})
    assert gone.json() == {"deleted": 1, "documents": 60}
    assert new["id"] not in ids_found(client, "cat")
    bad = client.post("/documents", json={"documents": [{"id": "", "text": "a"}]})
    assert bad.status_code == 400, bad.text
    assert client.post("/documents", json={"documents": []}).json()["added"] == 0


def test_a_write_whose_client_has_gone_still_keeps_others_waiting(make_index: Callable[..., Path]) -> None:
    from hyperseek.serve import ServeSettings
    from hyperseek.serve._served import Served

    served = Served("notes", Index.open(make_index(count=3)), None, ServeSettings(), lambda name, value: None)
    written: list[str] = []
    free = threading.Event()

    def first() -> int:
        free.wait(10)
        written.append("first")
        raise StoreError("nobody hears of this")

    def second() -> int:
        written.append("second")
        return 2

    async def write() -> int:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await served._written(first)
        later = asyncio.create_task(served._written(second))
        await asyncio.sleep(0.05)
        assert not written
        free.set()
        return await later

    assert asyncio.run(write()) == 2
    assert written == ["first", "second"]


def test_a_server_changes_nothing_unless_it_is_writable(make_index: Callable[..., Path]) -> None:
    from hyperseek.serve import create_app

    folder = make_index(count=5)
    with running(create_app({"notes": str(folder)}, keys=())) as url, httpx.Client(base_url=url) as client:
        for refused in (
            client.post("/documents", json={"documents": [{"id": "a", "text": "b"}]}),
            client.request("DELETE", "/documents", json={"ids": ["d1"]}),
        ):
            assert refused.status_code == 403
            assert "--writable" in refused.json()["error"]["message"]
    assert len(Index.open(folder)) == 5


def test_what_another_process_writes_is_shown_without_a_dropped_request(
    make_index: Callable[..., Path], tmp_path: Path
) -> None:
    from hyperseek.serve import ServeSettings, create_app

    folder = make_index(count=20)
    app = create_app({"notes": str(folder)}, settings=ServeSettings(writable=True), keys=())
    with running(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        there = Index.open(folder)  # as another process has it
        acknowledged: set[str] = set()
        leaving: set[str] = set()  # which may be shown until the answer
        deleted: set[str] = set()
        wrong: list[str] = []
        done = threading.Event()

        def ask() -> int:
            count = 0
            while not done.is_set():
                kept, gone = set(acknowledged), set(deleted)
                found = ids_found(client, "cat dog")
                if missing := kept - set(found) - leaving:
                    wrong.append(f"missing {missing}")
                if shown := gone & set(found):
                    wrong.append(f"deleted and shown {shown}")
                count += 1
            return count

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            try:
                for number in range(6):
                    own = f"own{number}"
                    client.post("/documents", json={"documents": [{"id": own, "text": "cat"}]}).raise_for_status()
                    acknowledged.add(own)
                    there.refresh()
                    there.add([Document(f"other{number}", "cat dog")])
                    if number % 2:
                        leaving.add(own)
                        client.request("DELETE", "/documents", json={"ids": [own]}).raise_for_status()
                        deleted.add(own)
                eventually(lambda: {f"other{number}" for number in range(6)} <= set(ids_found(client, "cat")))
            finally:
                done.set()
            assert sum(future.result() for future in asking) > 10
        assert not wrong
        there.engines.build("flat", name="late")
        eventually(lambda: client.get("/indexes").json()[0]["engines"] == ["late"])
        assert 'hyperseek_reloads_total{index="notes"}' in client.get("/metrics").text
        model = there.model
        there = Index.build(folder, texts(7, seed=3), model, overwrite=True)
        eventually(lambda: client.get("/indexes").json()[0]["documents"] == 7)
        assert len(ids_found(client, "cat")) == 7


class Started:
    """`hyperseek serve` as a program of its own."""

    def __init__(self, programs: Programs, arguments: list[str], log: Path, **environment: str) -> None:
        with log.open("wb") as file:
            self.program: Program = programs.start(
                ["-m", "hyperseek", "serve", *arguments, "--port", "0"],
                env={**os.environ, **environment},
                stdout=file.fileno(),
                stderr=file.fileno(),
            )
        self._log = log
        eventually(lambda: self.program.poll() is not None or "http://" in log.read_text(), 60)
        assert self.program.poll() is None, log.read_text()
        self.url = next(line for line in log.read_text().splitlines() if line.startswith("http://"))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]


def test_what_was_acknowledged_outlives_a_kill(
    make_index: Callable[..., Path], tmp_path: Path, programs: Programs
) -> None:
    folder = make_index(count=5)
    started = Started(programs, [str(folder), "--writable"], tmp_path / "log")
    acknowledged: list[str] = []

    def add() -> None:
        with httpx.Client(base_url=started.url, timeout=30) as client:
            for number in range(10_000):
                own = f"{threading.get_ident()}-{number}"
                try:
                    answer = client.post("/documents", json={"documents": [{"id": own, "text": "cat dog"}]})
                except httpx.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                acknowledged.append(own)

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(acknowledged) >= 12, 60)
    started.program.kill()
    for thread in threads:
        thread.join(30)
    assert started.program.wait(10) == -signal.SIGKILL
    assert set(acknowledged) <= set(Index.open(folder).ids)


def test_a_program_answers_what_runs_when_it_is_told_to_stop(
    make_index: Callable[..., Path], tmp_path: Path, programs: Programs
) -> None:
    folder = make_index(count=5)
    started = Started(programs, [f"mine={folder}"], tmp_path / "log", HYPERSEEK_API_KEYS="first-key,second-key")
    headers = {"Authorization": "Bearer second-key", "X-Request-Id": "asked-1"}
    body = {"index": "mine", "queries": [f"secret words {number}" for number in range(200)]}
    with ThreadPoolExecutor(4) as pool:
        with httpx.Client(base_url=started.url, timeout=30) as client:
            assert client.get("/indexes").status_code == 401
            assert client.post("/search", json={"query": "cat"}, headers=headers).headers["x-request-id"] == "asked-1"
        asked = [pool.submit(httpx.post, f"{started.url}/search", json=body, headers=headers) for _ in range(4)]
        time.sleep(0.05)
        os.kill(started.program.pid, signal.SIGTERM)
        answers = [future.exception() or future.result() for future in asked]
    assert started.program.wait(20) == 0
    # Those that had not arrived find the connection closed; every one that had is answered.
    answered = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert all(isinstance(answer, httpx.Response | httpx.TransportError) for answer in answers)
    assert all(len(answer.json()["queries"]) == 200 for answer in answered)
    assert len(answered) == sum(line.get("route") == "/search" for line in started.lines()) - 1
    log = (tmp_path / "log").read_text()
    assert "secret words" not in log
    assert "-key" not in log
    assert "Traceback" not in log
    known = next(line for line in started.lines() if line.get("request") == "asked-1")
    assert (known["method"], known["route"], known["status"]) == ("POST", "/search", 200)
    assert known["milliseconds"] > 0


def test_a_folder_of_files_is_followed_without_a_restart(tiny_model: str, tmp_path: Path, programs: Programs) -> None:
    pytest.importorskip("watchfiles", reason="needs the extra files")
    from hyperseek.data import open_dataset
    from hyperseek.index import sync
    from hyperseek.models import load
    from hyperseek.serve import ServeSettings, create_app

    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("cat dog")
    index = Index.build(tmp_path / "files.index", [], load(tiny_model))
    sync(index, open_dataset(str(notes)))
    settings = ServeSettings(watch=True, writable=True)
    with (
        running(create_app({"files": str(index.path)}, settings=settings, keys=())) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        refused = client.post("/documents", json={"documents": [{"id": "x", "text": "cat"}]})
        assert (refused.status_code, "change the files" in refused.text) == (409, True)
        (notes / "b.txt").write_text("river stone city")
        eventually(lambda: "b.txt" in ids_found(client, "river stone"))
        (notes / "b.txt").write_text("moon star tree")
        eventually(lambda: client.get("/documents/b.txt").json().get("text") == "moon star tree")
        (notes / "a.txt").unlink()
        eventually(lambda: ids_found(client, "cat") == ["b.txt"])


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPERSEEK_API_KEYS", raising=False)


def test_an_index_is_replaced_while_it_is_served(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one of a model with the same documents, of one that was trained again in its folder, or by nothing."""
    from hyperseek import Document, Index, load
    from hyperseek.models import ModelConfig, build
    from hyperseek.serve import create_app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hyperseek.serve._shelf._LOOK_AGAIN", 0.1)
    documents = [Document(f"d{number}", text) for number, text in enumerate(texts(10))]

    def built(folder: str, **config: Any) -> Index:
        build(ModelConfig.from_mapping({"trunk": tiny_encoder, **config})).save(folder)
        shutil.rmtree("e", ignore_errors=True)
        return Index.build("e", documents, load(folder))

    built("first")
    app = create_app({"notes": "e"}, keys=())
    with running(app) as url, httpx.Client(base_url=url, timeout=30) as client:

        def shows(index: Index) -> bool:
            answer = client.post("/search", json={"query": "cat dog", "k": 3})
            assert answer.status_code in (200, 503), answer.text  # while the folder is gone
            [asked] = answer.json().get("queries", [{"hits": []}])
            expected = [(hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in index.search("cat dog", k=3)]
            return [(hit["id"], hit["score"]) for hit in asked["hits"]] == expected

        for folder, config in (
            ("second", {"family": "qnet", "qnet": {"depth": 1}}),
            ("third", {"document_length": 5}),
            ("third", {"document_length": 7}),
        ):
            index = built(folder, **config)
            end = time.monotonic() + 10
            while client.get("/indexes").json()[0]["model"] != folder or not shows(index):
                assert time.monotonic() < end, (folder, config)
                time.sleep(0.05)
            shelf = app.state.shelf
            assert shelf.index().index.model.source == str(index.info.source)
            assert shelf.model().retriever is shelf.model(folder).retriever is shelf.index().index.model
        assert "unknown index 'x'" in client.post("/search", json={"query": "cat", "index": "x"}).text
        shutil.rmtree("e")
        refused = client.post("/search", json={"query": "cat", "where": "text = 'cat'"})
        assert refused.status_code == 503
        assert "notes" in refused.text
        assert str(tmp_path).removeprefix("/") not in refused.text
