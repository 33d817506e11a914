"""The server under load: latencies, throughput, memory, and answers while documents change.

    python benchmarks/serve.py [--collection ../shared/data/cranfield] [--queries ../shared/data/cosqa-dev]
        [--documents 1000] [--seconds 8] [--rates 10 20 40 80] [--clients 32] [--requests 0] [--changes 0]

Four servers of the same model and documents take turns, each a process of its own: `hyperseek` as `hyperseek serve`
runs it; `openvino`, the same with `--backend openvino`; `one at a time`, without batches; and `plain`,
sentence-transformers behind a FastAPI handler that encodes the query, multiplies it with all vectors and returns the
best documents. First `--clients` clients ask as soon as they have an answer; then requests arrive at fixed rates, at
random moments, whether earlier ones are answered or not, and a latency counts from the moment that a request was due.
Clients are a process of their own, on the same cores. `--requests N` asks N times and reports the memory of the server
on the way; `--changes N` adds and deletes N documents under load and counts wrong answers: a document that was
acknowledged before a request and is not its best hit, one that was deleted before and is found, or another wrong
ranking of the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import psutil

from _hardware import describe_hardware

SYSTEMS = ("hyperseek", "openvino", "one at a time", "plain")
MOST_OPEN = 2000  # connections of the clients


class Client:
    """Asks a server over connections that stay open; a lean client leaves the cores to the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return the status and the answer's value."""
        text = json.dumps(body).encode()
        request = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n\r\n"
        ).encode() + text
        while True:
            kept = self._idle.pop() if self._idle else None
            reader, writer = kept or await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(request)
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                if kept is None:
                    raise  # else the server had closed it, since nothing was asked for long
        length = next(int(line[16:]) for line in head.split("\r\n") if line.startswith("content-length:"))
        answer = await reader.readexactly(length)
        if "connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split(" ", 2)[1]), json.loads(answer)

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._idle:
            writer.close()


def percentiles(seconds: Sequence[float]) -> str:
    """Return p50, p95 and p99 in milliseconds."""
    if not seconds:
        return "no answer"
    return " ".join(f"p{share} {1000 * np.percentile(seconds, share):6.0f}" for share in (50, 95, 99))


async def closed_loop(
    client: Client, queries: Sequence[str], clients: int, seconds: float
) -> tuple[float, list[float]]:
    """Let clients ask one query after the other; answers a second, and their latencies."""
    latencies: list[float] = []
    start = time.perf_counter()

    async def ask(seed: int) -> None:
        chosen = random.Random(seed)
        while (begun := time.perf_counter()) - start < seconds:
            status, _ = await client.ask("POST", "/search", {"query": chosen.choice(queries), "k": 10})
            assert status == 200, status
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*map(ask, range(clients)))
    return len(latencies) / (time.perf_counter() - start), latencies


async def open_loop(
    client: Client, queries: Sequence[str], rate: float, seconds: float
) -> tuple[float, list[float], dict[int, int]]:
    """Let requests arrive at a rate; answers a second, latencies of the answers, and statuses."""
    chosen = random.Random(0)
    latencies: list[float] = []
    statuses: dict[int, int] = {}

    async def ask(due: float) -> None:
        status, _ = await client.ask("POST", "/search", {"query": chosen.choice(queries), "k": 10})
        statuses[status] = statuses.get(status, 0) + 1
        if status == 200:
            latencies.append(time.perf_counter() - due)

    start = due = time.perf_counter()
    tasks: list[asyncio.Task[None]] = []
    while due - start < seconds and len(tasks) < MOST_OPEN:
        due += chosen.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*tasks)
    return len(latencies) / (time.perf_counter() - start), latencies, statuses


async def many(client: Client, queries: Sequence[str], clients: int, count: int, server: psutil.Process) -> None:
    """Ask many times, and print the memory of the server at every tenth."""
    left, chosen = count, random.Random(0)
    print(f"memory after          0 requests: {server.memory_info().rss / 2**20:8.1f} MiB")

    async def ask() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if left % max(1, count // 10) == 0:
                done = count - left
                print(f"memory after {done:10,} requests: {server.memory_info().rss / 2**20:8.1f} MiB", flush=True)
            status, _ = await client.ask("POST", "/search", {"query": chosen.choice(queries), "k": 10})
            assert status == 200, status

    await asyncio.gather(*(ask() for _ in range(clients)))


async def changes(client: Client, queries: Sequence[str], clients: int, count: int) -> None:
    """Add and delete documents while clients ask, and count wrong answers."""

    def ranking(answer: Any) -> list[tuple[str, float]]:
        return [(hit["id"], hit["score"]) for hit in answer["queries"][0]["hits"]]

    wanted = {}
    for query in queries:
        wanted[query] = ranking((await client.ask("POST", "/search", {"query": query, "k": 50}))[1])
    chosen, present, gone = random.Random(0), {}, set[str]()
    wrong = asked = 0
    latencies: list[float] = []
    done = False

    async def ask() -> None:
        nonlocal wrong, asked
        while not done:
            own = chosen.choice(list(present)) if present and chosen.random() < 0.5 else None
            query = chosen.choice(queries) if own is None else present[own]
            deleted, begun = set(gone), time.perf_counter()
            status, answer = await client.ask("POST", "/search", {"query": query, "k": 50})
            assert status == 200, answer
            latencies.append(time.perf_counter() - begun)
            found, asked = ranking(answer), asked + 1
            right = not deleted & {name for name, _ in found}
            if own is not None:
                right &= own in gone or found[0][0] == own
            else:
                rest = [(name, score) for name, score in found if not name.startswith("new-")]
                right &= all(
                    abs(score - other) < 1e-4 for (_, score), (_, other) in zip(rest, wanted[query], strict=False)
                )
            wrong += not right

    async def change() -> None:
        nonlocal done
        for number in range(count):
            name, text = f"new-{number}", " ".join(chosen.choices(WORDS, k=12)) + f" {number}"
            body = {"documents": [{"id": name, "text": text}]}
            status, answer = await client.ask("POST", "/documents", body)
            assert status == 200, answer
            present[name] = text
            if number >= 5:
                old = f"new-{number - 5}"
                present.pop(old)
                status, answer = await client.ask("DELETE", "/documents", {"ids": [old]})
                assert status == 200, answer
                gone.add(old)
        done = True

    start = time.perf_counter()
    await asyncio.gather(change(), *(ask() for _ in range(clients)))
    seconds = time.perf_counter() - start
    print(
        f"{count} documents added and {len(gone)} deleted in {seconds:.0f} s, {asked:,} searches meanwhile "
        f"({asked / seconds:.0f}/s, {percentiles(latencies)} ms): {wrong} wrong answers"
    )


WORDS = (
    "amber",
    "basalt",
    "cobalt",
    "dune",
    "ember",
    "fjord",
    "glacier",
    "harbour",
    "iris",
    "juniper",
    "kelp",
    "lagoon",
)


@asynccontextmanager
async def server(system: str, index: Path, model: str) -> AsyncIterator[tuple[Client, psutil.Process]]:
    """Run a system as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--system", system, "--index", str(index), "--model", model],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        client = Client(port)
        for number in range(20):
            await client.ask("POST", "/search", {"query": f"warm up {number}", "k": 10})
        yield client, psutil.Process(process.pid)
        client.close()
    finally:
        process.terminate()
        process.wait(30)


def run_system(system: str, index: Path, model: str) -> None:
    """Be a server."""
    if system != "plain":
        from hyperseek.serve import ServeSettings, run

        apart: dict[str, Any] = {"batch_tokens": 1, "longest_wait": 0} if system == "one at a time" else {}
        settings = ServeSettings(port=0, writable=True, most_waiting=MOST_OPEN, **apart)
        backend = "openvino" if system == "openvino" else None
        run([f"served={index}"], settings=settings, backend=backend, ready=lambda url: print(url, flush=True))
        return
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    from hyperseek import Index, load

    opened = Index.open(index)
    documents = list(opened.documents())
    encoder = load(model).model  # sentence-transformers' own class
    vectors = np.concatenate([part.rows.numpy() for _, part in opened.points()])
    app = FastAPI()

    class Body(BaseModel):
        query: str
        k: int

    def search(body: Body) -> dict[str, Any]:
        scores = vectors @ encoder.encode(body.query, prompt_name=None, normalize_embeddings=True)
        best = np.argpartition(-scores, body.k)[: body.k]
        best = best[np.argsort(-scores[best])]
        hits = [{"id": documents[row].id, "score": float(scores[row]), "text": documents[row].text} for row in best]
        return {"queries": [{"query": body.query, "hits": hits}]}

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            print(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}", flush=True)

    search.__annotations__["body"] = Body  # a class of this function, whose name says nothing to FastAPI
    app.post("/search")(search)
    Server(uvicorn.Config(app, port=0, log_config=None, access_log=False)).run()


async def measure(options: argparse.Namespace, index: Path, queries: Sequence[str]) -> None:
    """Measure all systems in turns."""
    told: dict[str, dict[str, list[float]]] = {}

    async def turn(title: str, work: Callable[[Client], Awaitable[tuple[float, list[float], str]]]) -> None:
        for number in range(options.rounds):
            for system in options.systems:
                async with server(system, index, options.model) as (client, process):
                    before = sum(process.cpu_times()[:2])
                    throughput, latencies, note = await work(client)
                    used = 1000 * (sum(process.cpu_times()[:2]) - before) / max(1, len(latencies))
                told.setdefault(title, {}).setdefault(system, []).append(throughput)
                print(
                    f"{title}, round {number + 1}: {system:14} {throughput:6.1f}/s {percentiles(latencies)} ms, "
                    f"{used:.1f} ms of the processor each{note}",
                    flush=True,
                )

    async def closed(client: Client) -> tuple[float, list[float], str]:
        return (*await closed_loop(client, queries, options.clients, options.seconds), "")

    await turn(f"{options.clients} clients", closed)
    for rate in options.rates:

        async def fixed(client: Client, rate: float = rate) -> tuple[float, list[float], str]:
            throughput, latencies, statuses = await open_loop(client, queries, rate, options.seconds)
            others = {status: count for status, count in statuses.items() if status != 200}
            return throughput, latencies, f", others {others}" if others else ""

        await turn(f"{rate:g} requests/s arrive", fixed)
    for title, systems in told.items():
        medians = {system: statistics.median(values) for system, values in systems.items()}
        ratios = [f"{medians[options.systems[0]] / medians[other]:.2f} times {other}" for other in options.systems[1:]]
        print(f"{title}: {options.systems[0]} answers {' and '.join(ratios)}")
    if options.requests:
        async with server("hyperseek", index, options.model) as (client, process):
            await many(client, queries, options.clients, options.requests, process)
    if options.changes:
        async with server("hyperseek", index, options.model) as (client, _):
            await changes(client, queries[:50], options.clients // 4, options.changes)


def main() -> None:
    """Measure, or be a server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", default="../shared/data/cranfield")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--queries", help="A collection whose queries are asked; None for those of the first.")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rates", type=float, nargs="*", default=[10, 20, 40, 80])
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--changes", type=int, default=0)
    parser.add_argument("--system", help=argparse.SUPPRESS)
    parser.add_argument("--index", type=Path, help="An index of the model; else one is built of the collection.")
    options = parser.parse_args()
    if options.system:
        run_system(options.system, options.index, options.model)
        return
    from hyperseek import Index, load, open_dataset

    print(describe_hardware())
    dataset = open_dataset(options.collection)
    queries = [query.text for query in open_dataset(options.queries or options.collection).queries()]
    with tempfile.TemporaryDirectory() as folder:
        index = options.index or Path(folder) / "served.index"
        if not options.index:
            documents = [one for one, _ in zip(dataset.documents(), range(options.documents), strict=False)]
            Index.build(index, documents, load(options.model))
        print(
            f"{len(Index.open(index)):,} documents of {options.collection}, {len(queries)} queries of "
            f"{options.queries or options.collection} ({statistics.mean(map(len, queries)):.0f} characters), "
            f"{options.model}"
        )
        asyncio.run(measure(options, index, queries))


if __name__ == "__main__":
    main()
