"""Ctrl-C: what is under way is stored, what is stored is said, and the same command resumes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hyperseek._long_work import Interrupted, in_threads, stop_asked, stop_here, stoppable


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_the_first_press_waits_for_a_place_to_stop() -> None:
    done: list[int] = []

    def work() -> None:
        with stoppable(lambda: f"{len(done)} are stored"):
            for number in range(5):
                done.append(number)
                if number == 1:
                    press()
                    assert stop_asked()
                stop_here()

    with pytest.raises(Interrupted, match="2 are stored"):
        work()
    assert done == [0, 1]
    assert not stop_asked()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_press_stops_at_once() -> None:
    done: list[int] = []

    def work() -> None:
        with stoppable(lambda: "nothing is stored"):
            press()
            done.append(1)
            press()
            done.append(2)

    with pytest.raises(KeyboardInterrupt, match="nothing is stored"):
        work()
    assert done == [1]


def test_without_a_press_nothing_happens() -> None:
    with stoppable(lambda: "never said"):
        stop_here()
    stop_here()


def test_inner_steps_stop_the_outer_one_with_its_message() -> None:
    def work() -> None:
        with stoppable(lambda: "of the whole"):
            with stoppable(lambda: "of the part"):
                press()
                stop_here()
            raise AssertionError("the outer step went on")

    with pytest.raises(Interrupted, match="of the whole"):
        work()


def test_other_threads_and_other_handlers_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with stoppable(lambda: ""):
            seen.append(signal.getsignal(signal.SIGINT))
            stop_here()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable(lambda: ""):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    from hyperseek.cli import main

    monkeypatch.setattr(sys, "argv", ["hyperseek", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_encoding_that_is_stopped_says_what_is_stored_and_resumes(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hyperseek.models import Retriever

    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f'{{"_id": "d{number}", "text": "river stone {number}"}}\n' for number in range(700)))
    arguments = ["encode", tiny_encoder, str(corpus), "--index", str(tmp_path / "index")]
    encode, sizes = Retriever.encode_documents, []

    def pressed(self: Retriever, texts: Sequence[str], **options: Any) -> Any:
        sizes.append(len(texts))
        if sizes.count(256) == 2:  # the first pieces of the corpus, after some texts of the estimate
            press()
        return encode(self, texts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Retriever, "encode_documents", pressed)
        assert command(arguments, monkeypatch) == 130
    said = capfd.readouterr().err
    assert "press Ctrl-C again to stop at once" in said
    assert "512 of 700 documents are stored" in said
    assert "run the same again to resume" in said
    assert command(arguments, monkeypatch) == 0
    assert "700 documents" in capfd.readouterr().err


def test_an_evaluation_that_is_stopped_says_that_nothing_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hyperseek.evaluation

    (tmp_path / "run.trec").write_text("q Q0 d 1 1.0 tag\n")
    (tmp_path / "qrels.tsv").write_text("q\t0\td\t1\n")

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hyperseek.evaluation, "rank_file", stopped)
    run, qrels = str(tmp_path / "run.trec"), str(tmp_path / "qrels.tsv")
    assert command(["evaluate", "--runs", run, "--qrels", qrels], monkeypatch) == 130
    said = capsys.readouterr()
    assert "stopped; an evaluation stores nothing before it ends" in said.err
    assert said.out == ""


def test_calls_that_hang_do_not_hold_ctrl_c() -> None:
    ended = threading.Event()
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    start = time.monotonic()
    timer.start()
    try:
        with pytest.raises(Interrupted, match="kept"), stoppable(lambda: "it is kept"):
            list(in_threads(lambda _: ended.wait(30), [1, 2, 3], 2))
    finally:
        ended.set()
    assert time.monotonic() - start < 10


def test_calls_in_threads_give_results_with_their_places_and_errors_at_once() -> None:
    assert dict(in_threads(lambda x: x * x, range(20), 4)) == {x: x * x for x in range(20)}
    assert [*in_threads(str, [5, 6], 1)] == [(0, "5"), (1, "6")]
    assert [*in_threads(str, [], 3)] == []
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda x: 1 // x, [1, 0, 2], 2))
