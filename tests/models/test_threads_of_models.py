"""One model, many threads: a tokenizer keeps truncation and padding, which no thread may change for another."""

from __future__ import annotations

import sys
import threading

from hyperseek import load
from hyperseek._long_work import listening


def test_threads_that_share_a_tokenizer_do_not_disturb_each_other(tiny_encoder: str) -> None:
    model = load(tiny_encoder)
    long, short = "what how when where " * 100, "cat dog"
    queries = [long, short]
    wanted = model.tokenize(queries, "query")["input_ids"].tolist()
    counts = model._token_counts([long, short])
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(150):
            if (found := model.tokenize(queries, "query")["input_ids"].tolist()) != wanted:
                wrong.append(found)

    def count() -> None:
        for _ in range(150):
            if (found := model._token_counts([long, short])) != counts:
                wrong.append(found)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=task) for task in (ask, count, ask)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_the_stages_of_encoding_are_timed_for_who_listens(tiny_encoder: str) -> None:
    model = load(tiny_encoder)
    told: list[tuple[str, float]] = []
    with listening(lambda stage, seconds: told.append((stage, seconds))):
        model.encode_documents(["cat dog", "bird"])
    assert {stage for stage, _ in told} == {"tokenise", "encode"}
    assert all(seconds >= 0 for _, seconds in told)
    count = len(told)
    model.encode_documents(["cat"])
    assert len(told) == count
