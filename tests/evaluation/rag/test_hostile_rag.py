"""What may go wrong with endpoints, kept files and texts, and what must not follow from it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperseek.errors import DataError, HyperseekError, ModelError
from hyperseek.evaluation import (
    AdherenceJudge,
    EndpointGenerator,
    GenerationOptions,
    LocalGenerator,
    RagSample,
    evaluate_rag,
    free_measures,
    note_judge_tokens,
    recorded_samples,
)
from hyperseek.evaluation.rag._text_measures import _longest_common, rouge_l

SAMPLES = [
    RagSample(id=f"q{number}", user_input=f"who {number}", retrieved_contexts=("The cat sat.",), references=("cat",))
    for number in range(4)
]
GOOD = {"choices": [{"message": {"content": "the cat"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


class Hostile(ThreadingHTTPServer):
    """Sends what `answer` returns as status, headers and bytes; remembers the headers it got."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.answer: Any = lambda: (200, {}, json.dumps(GOOD).encode())
        self.got: list[dict[str, str]] = []
        self.ended = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Hostile

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.got.append({name.lower(): value for name, value in self.headers.items()})
        status, headers, content = self.server.answer()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile() as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.ended.set()
        started.shutdown()


KEY = "sk-very-secret"
WRONG = {
    "html": (200, {"Content-Type": "text/html"}, b"<html>sign in</html>"),
    "other json": (200, {}, b'{"answer": 42}'),
    "list": (200, {}, b"[1, 2]"),
    "no choices": (200, {}, b'{"choices": []}'),
    "number": (200, {}, b'{"choices": [{"message": {"content": 3}}]}'),
    "not utf-8": (200, {}, b"\xff\xfe\x00"),
    "deep": (200, {}, b"[" * 100_000),
    "too large": (200, {}, b'{"a": "' + b"x" * (1 << 24) + b'"}'),
    "broken off": (200, {"Content-Length": "5000"}, b'{"choices": '),
    "error": (500, {}, b"<html>no</html>"),
    "busy": (429, {"Retry-After": "0"}, b""),
    "payment": (402, {}, b"{}"),
    "echo": (401, {}, f'{{"error": "wrong key {KEY}"}}'.encode()),
    "echo in an answer": (200, {}, f'{{"you sent": "{KEY}"}}'.encode()),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_endpoint_that_answers_wrongly_ends_the_run(
    hostile: Hostile, wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hostile.answer = lambda: WRONG[wrong]
    generator = EndpointGenerator("m", url=hostile.url, key=KEY, retries=1, at_once=2, timeout=3)
    generator._endpoint._wait = 0.01
    with caplog.at_level("DEBUG"), pytest.raises(ModelError) as raised:
        evaluate_rag({"a": SAMPLES}, generator=generator, output=tmp_path)
    assert len(str(raised.value)) < 1500
    assert "Traceback" not in str(raised.value)
    assert KEY not in str(raised.value) + caplog.text
    assert not any(KEY in file.read_text() for file in tmp_path.rglob("*") if file.is_file())


def test_a_refusal_that_echoes_the_key_is_written_without_it(hostile: Hostile, tmp_path: Path) -> None:
    hostile.answer = lambda: (400, {}, f"too long: {KEY}".encode())
    evaluate_rag({"a": SAMPLES}, generator=EndpointGenerator("m", url=hostile.url, key=KEY), output=tmp_path)
    written = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert any("too long: (key)" in text for text in written)
    assert not any(KEY in text for text in written)


def test_the_key_does_not_follow_a_redirect(hostile: Hostile) -> None:
    with Hostile() as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        hostile.answer = lambda: (307, {"Location": other.url.replace("127.0.0.1", "localhost")}, b"")
        with pytest.raises(ModelError, match="redirects are not followed"):
            EndpointGenerator("m", url=hostile.url, key=KEY).generate("x")
        other.shutdown()
        assert other.got == []


def test_an_answer_that_never_ends_and_one_that_breaks_off_are_asked_for_again(hostile: Hostile) -> None:
    good = json.dumps(GOOD).encode()
    answers = [(200, {"Content-Length": "5000"}, good), (200, {}, good)]
    hostile.answer = lambda: answers.pop(0)
    generator = EndpointGenerator("m", url=hostile.url, retries=1)
    generator._endpoint._wait = 0.01
    assert generator.generate("x").text == "the cat"

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            with listening.accept()[0] as one:
                one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                with suppress(OSError):
                    for _ in range(100):
                        one.sendall(b" ")
                        time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with pytest.raises(ModelError, match=r"has not ended after 0\.5 s"):
            EndpointGenerator("m", url=url, retries=0, timeout=0.5).generate("x")


@pytest.mark.parametrize(
    "usage", [None, "much", {}, {"prompt_tokens": "3"}, {"prompt_tokens": -1, "completion_tokens": True}]
)
def test_tokens_that_are_not_counted_are_unknown(hostile: Hostile, usage: Any) -> None:
    hostile.answer = lambda: (200, {}, json.dumps({**GOOD, "usage": usage}).encode())
    generator = EndpointGenerator("m", url=hostile.url)
    result = evaluate_rag({"a": SAMPLES}, generator=generator, prices=(1, 1)).result("a")
    assert result.usage is not None
    assert (result.usage.answers, result.usage.cost) == (4, None)
    assert result.usage.prompt_tokens is None


@pytest.mark.slow
@pytest.mark.parametrize("at_once", ["3", "1"])
def test_ctrl_c_ends_a_run_whose_endpoint_hangs(hostile: Hostile, tmp_path: Path, at_once: str) -> None:
    """One request: a second Ctrl-C; several: the first one."""
    hostile.answer = lambda: hostile.ended.wait(100) and (200, {}, b"")
    (tmp_path / "t.jsonl").write_text("".join(f'{{"user_input": "who {number}"}}\n' for number in range(4)))
    code = "from hyperseek.cli import main; main()"
    command = ["evaluate", "--rag", "--answers", str(tmp_path / "t.jsonl"), "--generator", "m", "--at-once", at_once]
    command += ["--generator-url", hostile.url, "--output", str(tmp_path / "o")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *command], stderr=subprocess.PIPE, env={**os.environ}
    ) as running:
        end = time.monotonic() + 100
        while len(hostile.got) < int(at_once) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        if at_once == "1":
            time.sleep(0.5)
            running.send_signal(signal.SIGINT)
        try:
            _, told = running.communicate(timeout=20)
        finally:
            running.kill()
    assert running.returncode == 130, told
    assert b"Traceback" not in told
    assert b"the same command again" in told


DAMAGED = ['{"key": 5}', '{"key": "KEY"}', '{"key": "KEY", "response": 7}', "[]", "\x00\x01", '{"key": "KEY", "va']


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_lines_of_kept_answers_are_asked_for_again(
    hostile: Hostile, tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    generator = EndpointGenerator("m", url=hostile.url)
    evaluate_rag({"a": SAMPLES}, generator=generator, output=tmp_path)
    kept = (tmp_path / "answers.jsonl").read_text().splitlines()
    first = json.loads(kept[0])["key"]
    (tmp_path / "answers.jsonl").write_text("\n".join([line.replace("KEY", first), *kept[1:]]))
    evaluate_rag({"a": SAMPLES}, generator=generator, output=tmp_path)
    assert len(hostile.got) == 5
    assert "1 damaged line" in caplog.text


class PaidJudge:
    """Fails first; its requests cost tokens."""

    name, fingerprint, at_once = "paid", "p", 2
    measures = ("context_relevance",)

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def judge(self, measure: str, fields: Any) -> float:
        note_judge_tokens(10, 5)
        note_judge_tokens(20, None if self.answer is None else 1)
        if not isinstance(self.answer, float):
            raise ValueError("no")
        return self.answer


def test_what_a_judge_takes_is_added_up_with_failures_and_earlier_runs(tmp_path: Path) -> None:
    def usage(answer: Any, **options: Any) -> Any:
        judge = PaidJudge(answer)
        report = evaluate_rag({"a": SAMPLES}, judge=judge, judge_prices=(100, 1000), output=tmp_path, **options)
        return report.result("a").judge_usage, report

    failed, _ = usage("broken")
    assert (failed.answers, failed.prompt_tokens, failed.completion_tokens) == (4, 120, 24)
    assert failed.cost == pytest.approx(0.036)
    kept, _ = usage(0.5)
    assert kept == failed
    again, report = usage(0.5, again=True)
    assert (again.answers, again.prompt_tokens, again.completion_tokens) == (4, 240, 48)
    assert "a: 4 judgements, 240 tokens of prompts, 48 tokens of answers" in report.to_markdown()
    written = json.loads((tmp_path / "rag.json").read_text())["systems"]["a"]["judge_usage"]
    assert written["cost"] == pytest.approx(0.072)
    assert usage(None)[0].prompt_tokens == 240


@pytest.mark.parametrize("damaged", ['"value": "high"', '"value": true', '"nan": 3', '"other": 1'])
def test_damaged_judgements_are_asked_for_again(tmp_path: Path, damaged: str) -> None:
    evaluate_rag({"a": SAMPLES}, judge=PaidJudge(0.5), output=tmp_path)
    file = tmp_path / "judgements.jsonl"
    file.write_text(file.read_text().replace('"value": 0.5', damaged))
    result = evaluate_rag({"a": SAMPLES}, judge=PaidJudge(0.25), output=tmp_path).result("a")
    assert set(result.values["context_relevance"].values()) == {0.25}


@pytest.mark.parametrize("name", ["answers.jsonl", "rag.json", "judgements.jsonl", "../up", "a/b", "RAG.md"])
def test_systems_may_have_any_name(hostile: Hostile, tmp_path: Path, name: str) -> None:
    generator = EndpointGenerator("m", url=hostile.url)
    evaluate_rag({name: SAMPLES}, generator=generator, judge=PaidJudge(1.0), output=tmp_path / "out")
    assert len([*(tmp_path / "out").glob("*/ragas_scores.jsonl")]) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "prompt", ["{0} {contexts} {question}", "{contexts.__class__} {{contexts}} {question} {contexts} {"]
)
def test_templates_are_data(prompt: str) -> None:
    filled = GenerationOptions(prompt=prompt).filled("why", ["x"])
    assert filled == prompt.replace("{contexts}", "[1] x").replace("{question}", "why")
    with pytest.raises(HyperseekError, match="question"):
        GenerationOptions.from_mapping({"prompt": "{contexts} {question.__class__}"})


def test_subsequences_are_the_longest_and_long_texts_take_no_hours() -> None:
    def slow(one: list[str], other: list[str]) -> int:
        row = [0] * (len(other) + 1)
        for word in one:
            before = 0
            for place, wanted in enumerate(other, start=1):
                above = row[place]
                row[place] = before + 1 if word == wanted else max(above, row[place - 1])
                before = above
        return row[-1]

    draw = random.Random(0)
    for _ in range(100):
        one, other = draw.choices("abcd", k=draw.randint(0, 30)), draw.choices("abcde", k=draw.randint(0, 30))
        assert _longest_common(one, other) == slow(one, other)
    text = " ".join(draw.choices(["cat", "dog", "sea"], k=30_000))
    start = time.perf_counter()
    assert rouge_l(text, [text]) == 1.0
    assert time.perf_counter() - start < 5  # 90 seconds in rows of numbers


def test_tokens_of_contexts_are_counted_without_special_ones(tiny_encoder: str) -> None:
    from hyperseek import load

    model = load(tiny_encoder)
    sample = RagSample(id="1", user_input="who", retrieved_contexts=("the cat", "fish in the sea", ""))
    own = model.model.tokenizer
    expected = sum(len(own.tokenize(text)) for text in sample.retrieved_contexts)
    report = evaluate_rag({"a": [sample]}, tokenized_by=model)
    assert report.result("a").values["context_tokens"] == {"1": expected}
    assert report.result("a").protocol.system["tokens_of"] == model.source
    assert "context_tokens" not in free_measures(sample)


BAD_LABELS = [
    5,
    "abc",
    [5],
    {"a": 1},
    [{"documents": ["elsewhere"], "sentences": [[]]}],
    [{"documents": ["d"], "sentences": []}],
    [{"documents": ["d"], "sentences": [[["0a"]]]}],
]


@pytest.mark.parametrize("labels", BAD_LABELS, ids=str)
def test_labels_of_another_form_are_errors_of_ours(labels: Any) -> None:
    from hyperseek.data import Dataset
    from hyperseek.types import Document, Query

    query = Query("q", "cat", {"ragbench": labels})
    dataset = Dataset.from_records("odd", [Document("d", "the cat")], queries=[query], qrels={"test": {"q": {"d": 1}}})
    with pytest.raises(DataError, match="labels of 'q'"):
        recorded_samples(dataset)


def test_an_adherence_judge_of_extreme_numbers_stays_in_range(tiny_encoder: str, tmp_path: Path) -> None:
    from hyperseek import load

    model = load(tiny_encoder)
    given = {"embeddings": "m", "fingerprint": model.fingerprint, "trained_on": {}, "mean": [0.0] * 6}
    given |= {"scale": [1.0] * 6, "weights": [1.0] * 6, "bias": -1e300}
    sample = RagSample(id="1", user_input="who", retrieved_contexts=("the cat", ""), response="The cat. A dog.")
    with np.errstate(all="raise"):
        assert 0 <= AdherenceJudge.from_mapping(given).score(sample, model) < 1e-9
    with pytest.raises(HyperseekError, match="scale"):
        AdherenceJudge.from_mapping({**given, "scale": [0.0] * 6})


def test_two_runs_at_once_ask_once(hostile: Hostile, tmp_path: Path) -> None:
    hostile.answer = lambda: time.sleep(0.1) or (200, {}, json.dumps(GOOD).encode())
    reports: list[Any] = []

    def run() -> None:
        generator = EndpointGenerator("m", url=hostile.url)
        reports.append(evaluate_rag({"a": SAMPLES}, generator=generator, output=tmp_path))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hostile.got) == 4
    assert reports[0].to_json() == reports[1].to_json()


def test_a_local_model_that_fails_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    generator = LocalGenerator(tmp_path)

    class Tokenizer:
        chat_template = "{{ messages }}"

        def apply_chat_template(self, *_: object, **__: object) -> str:
            raise ZeroDivisionError("this template takes no user")

    generator.__dict__["_loaded"] = (None, Tokenizer())  # what loading would give
    with pytest.raises(ModelError, match="cannot answer: ZeroDivisionError: this template takes no user"):
        generator.generate("why?")
