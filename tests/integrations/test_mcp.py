"""The SDK's own client asks in memory, over the pipes of a real process, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp.server.mcpserver", reason="needs the extra mcp")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

from mcp import Client, StdioServerParameters
from serve_fixtures import running
from typer.testing import CliRunner

from hyperseek import Document, Index
from hyperseek.cli import app
from hyperseek.errors import InputError
from hyperseek.integrations.mcp import http_app, mcp_server
from hyperseek.serve import create_app


async def called(client: Client, tool: str, **arguments: Any) -> Any:
    """The value of a tool, which is the same as structured content and as the JSON of one text."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    [content] = answer.content
    assert content.type == "text"
    assert json.loads(content.text) == answer.structured_content
    return answer.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    [content] = answer.content
    assert content.type == "text"
    return content.text


async def check(client: Client, index: Index) -> None:
    """Check all tools, whatever lies between them and the client."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == ["search", "fetch", "similar", "explain"]
    for name, argument in (("search", "query"), ("fetch", "id"), ("similar", "id"), ("explain", "query")):
        assert list(tools[name].input_schema["properties"]) == [argument]
        assert tools[name].input_schema["required"] == [argument]
        assert tools[name].annotations is not None
        assert tools[name].annotations.read_only_hint
    hits = index.search("door window table music", k=3)
    found = (await called(client, "search", query="door window table music"))["results"]
    assert [(one["id"], one["score"]) for one in found] == [(hit.id, hit.score) for hit in hits]
    assert [set(one) for one in found] == [{"id", "title", "text", "url", "score"}] * 3
    assert [one["text"] for one in found] == [hit.passages[0].text for hit in hits]
    whole = await called(client, "fetch", id="long/one")
    assert whole == {
        "id": "long/one",
        "title": "Long",
        "text": index["long/one"].text,
        "url": "hyperseek://notes/long/one",
        "metadata": {},
    }
    alike = (await called(client, "similar", id="fish"))["results"]
    assert len(alike) == 3
    assert "fish" not in [one["id"] for one in alike]
    told = await called(client, "explain", query="sea")
    assert any("recall 1.0000" in line for line in told["stages"])
    assert len(told["results"]) == 3
    assert "there is no document 'nothing'" in await refused(client, "fetch", id="nothing")
    assert "is blank" in await refused(client, "search", query=" ")
    assert await refused(client, "search") == "'search' cannot be called so: query: Field required"
    assert "query: Input should be a valid string" in await refused(client, "search", query=3)


async def test_in_memory(index: Index) -> None:
    async with Client(mcp_server(index, k=3, about="fruit and fish")) as client:
        await check(client, index)
        [search, *_] = (await client.list_tools()).tools
        assert "fruit and fish" in (search.description or "")


async def test_a_filter_and_addresses(index: Index) -> None:
    server = mcp_server(index.path, where="year > 2016", plan="hybrid", url="https://example.org/?d={id}")
    async with Client(server) as client:
        found = (await called(client, "search", query="sea"))["results"]
        assert sorted(one["url"] for one in found) == ["https://example.org/?d=fish", "https://example.org/?d=plain"]
        assert (await called(client, "fetch", id="long/one"))["url"] == "https://example.org/?d=long%2Fone"
    async with Client(mcp_server(index, where="nowhere = 1")) as client:
        assert "there is no field nowhere" in await refused(client, "search", query="sea")
    with pytest.raises(InputError, match=r"holds \{id\}"):
        mcp_server(index, url="https://example.org/")


async def test_documents_that_are_added_later_are_found(empty: Index) -> None:
    async with Client(mcp_server(str(empty.path))) as client:
        assert await called(client, "search", query="sea moon") == {"results": []}
        empty.add([Document("new", "sea moon", metadata={"url": "https://example.org/new"})])
        [found] = (await called(client, "search", query="sea moon"))["results"]
        assert (found["id"], found["title"], found["url"]) == ("new", "new", "https://example.org/new")


async def test_a_real_process_over_pipes(index: Index) -> None:
    """Whatever else were on its standard output, the client would hand on as an exception."""
    strange: list[object] = []

    async def note(message: object) -> None:
        strange.append(message)

    arguments = ["-m", "hyperseek", "-v", "mcp", str(index.path), "-k", "3"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = StdioServerParameters(command=sys.executable, args=arguments, env=environment)
    async with Client(process, message_handler=note) as client:
        await check(client, index)
    assert not strange


@pytest.fixture
def address(index: Index, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HYPERSEEK_API_KEYS", "other, right")
    with running(http_app(mcp_server(index, k=3))) as url:
        yield f"{url}/mcp"


async def test_over_http_with_a_key(address: str, index: Index) -> None:
    import httpx
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    http = create_mcp_http_client(headers={"Authorization": "Bearer right"})
    async with http, Client(streamable_http_client(address, http_client=http)) as client:
        await check(client, index)
    for key in ("", "Bearer wrong", "Bearer \udcff"):
        headers = {"Authorization": key.encode("utf-8", "surrogateescape").decode("latin-1")}
        answer = httpx.post(address, json={}, headers={k: v.encode("latin-1") for k, v in headers.items()})
        assert answer.status_code == 401
    answer = httpx.post(address, json={}, headers={"Authorization": "Bearer right", "Host": "elsewhere.example"})
    assert answer.status_code in (403, 421)


async def test_a_program_stops_when_it_is_told_to(index: Index) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hyperseek", "mcp", str(index.path), "--http", "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert program.stderr is not None
            async with Client(program.stderr.readline().strip()) as client:
                assert (await client.list_tools()).tools
                program.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(program.wait, 30) == 0
        finally:
            program.kill()


async def test_an_index_on_a_server_has_the_same_tools(index: Index) -> None:
    with running(create_app({"notes": str(index.path)}, keys=())) as url:
        async with Client(mcp_server(f"{url}#notes", k=3)) as client:
            await check(client, index)


def test_mistakes_of_the_command_line(index: Index, tmp_path: Path) -> None:
    for arguments, said in (
        ([str(tmp_path / "none")], "no index"),
        ([str(index.path), "--hybrid", "--plan", "p.yaml"], "exclude each other"),
        ([str(index.path), "--http", "--host", "192.0.2.1"], "cannot listen at"),
        (["http://127.0.0.1:9"], "cannot be reached"),
    ):
        result = CliRunner().invoke(app, ["mcp", *arguments])
        assert said in str(result.exception), result.output
        assert result.stdout == ""
