"""Titles, texts, ids, names and errors from strangers reach the terminal as characters that it only shows."""

from __future__ import annotations

import json
import logging
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hyperseek import cli
from hyperseek.cli import app
from hyperseek.cli._echo import echo_exactly
from hyperseek.data import write_qrels, write_run
from hyperseek.errors import HyperseekError, printable, printable_json
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.types import Document

EVIL = "\x1b[2J\x1b]0;title\x07\x9b31m\u202etxt\u2066\r\x08\x7f\u2028[bold]"
"""Clears the screen, names the window, colours, turns the direction, goes back, ends a line; and Rich's own markup."""


def obeyed(text: str) -> list[str]:
    """What a terminal would not only show."""
    kinds = ("Cc", "Cs", "Zl", "Zp")
    turning = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return [one for one in text if one != "\n" and (unicodedata.category(one) in kinds or one in turning)]


@settings(deadline=None)
@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_no_text_commands(text: str) -> None:
    assert not obeyed(printable(text))
    assert "\n" not in printable(text)
    assert printable(text, lines=True).count("\n") == text.count("\n")
    assert printable(printable(text)) == printable(text)
    for indent in (None, 2):
        shown = printable_json({text: [text]}, indent=indent)
        assert not obeyed(shown)
        assert json.loads(shown) == json.loads(json.dumps({text: [text]}))  # which joins halves of pairs


def test_what_people_write_stays() -> None:
    for text in ("café", "हिन्दी", "עִבְרִית", "👩‍👩‍👧 family", "naïve — “quotes” ½", "日本語", "a\u00adb", "می‌خواهم"):
        assert printable(text) == text
    assert printable("\x1b[2J\n\t\x9b\u202e\ud800\x7f") == "␛[2J␊␉\\u009b\\u202e\\ud800␡"


@pytest.fixture(autouse=True)
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging as bars

    bars.disable_progress_bar()
    yield
    bars.enable_progress_bar()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Path:
    """A collection, its index and runs, in which every text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "qrels").mkdir()
    documents = [Document(f"d{n}{EVIL}", f"cat {EVIL} dog", f"T{EVIL}", {"kind": EVIL, "n": n}) for n in range(4)]
    records = [{"_id": d.id, "title": d.title, "text": d.text, **d.metadata} for d in documents]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    queries = [{"_id": f"q{n}\x1b[2J", "text": f"cat {EVIL}"} for n in range(3)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(record) + "\n" for record in queries))
    write_qrels({f"q{n}\x1b[2J": {"d0\x1b[2J": 1} for n in range(3)}, folder / "judged.qrels")
    write_run({f"q{n}\x1b[2J": {"d0\x1b[2J": 1.0} for n in range(3)}, folder / "run\x1b[2J.trec")
    Index.build(folder / "index", documents, load(tiny_encoder, device="cpu"), name=EVIL)
    return folder


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert not obeyed(result.stdout)
    assert not obeyed(result.stderr)
    return result.stdout


def test_no_output_commands(hostile: Path) -> None:
    index = hostile / "index"
    table = run("search", index, f"cat {EVIL}")
    assert table.count("[bold]") > 4
    rows = run("search", index, "--queries", hostile / "queries.jsonl", "-f", "jsonl").splitlines()
    assert [json.loads(row)["query"]["text"] for row in rows] == [f"cat {EVIL}"] * 3
    assert json.loads(rows[0])["hits"][0]["title"] == f"T{EVIL}"
    run("search", index, "cat", "--explain")
    run("search", index, "cat", "--where", "n > 1")
    run("inspect", "index", index)
    assert json.loads(run("inspect", "index", index, "--json"))["path"] == str(index)
    files = ("--runs", hostile / "run\x1b[2J.trec", "--qrels", hostile / "judged.qrels", "-m", "P@1")
    assert "run␛[2J.trec" in run("evaluate", *files)
    assert json.loads(run("evaluate", *files, "--json"))["comparison"]["baseline"] == "run\x1b[2J.trec"
    with pytest.raises(HyperseekError, match="cannot write id"):
        CliRunner().invoke(app, ["search", str(index), "cat", "-f", "trec"], catch_exceptions=False)


def test_a_format_without_escapes_is_printed_as_it_is_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    echo_exactly("q\tQ0\td 1\t1\t0.5\tt", instead="--format jsonl")
    assert capsys.readouterr().out == "q\tQ0\td 1\t1\t0.5\tt\n"
    with pytest.raises(HyperseekError, match="--format jsonl"):
        echo_exactly("q Q0 d\x1b[2J 1 0.5 t", instead="--format jsonl")


def test_no_error_and_no_log_commands(
    hostile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = hostile / "bad.jsonl"
    bad.write_text(json.dumps({f"key{EVIL}": 1}) + "\n")
    for arguments in (
        ["search", str(hostile / f"none{EVIL}"), "cat"],
        ["search", str(hostile / "index"), "--queries", str(bad)],
        ["search", str(hostile / "index"), "cat", "--engine", f"none{EVIL}"],
        ["search", str(hostile / "index"), "cat", "--where", f"none{EVIL}"],
        ["evaluate", "--runs", str(bad), "--qrels", str(bad)],
        ["inspect", "index", str(hostile / f"none{EVIL}")],
    ):
        monkeypatch.setattr(sys, "argv", ["hyperseek", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2, arguments
        told = capsys.readouterr()
        # The colour of the message is ours.
        assert not obeyed(told.out + re.sub(r"\x1b\[(31|0)m", "", told.err)), arguments
    record = logging.LogRecord("name", logging.WARNING, "", 1, f"left out {EVIL}", None, None)
    assert not obeyed(cli._Formatter("%(name)s: %(message)s").format(record))


def test_every_verb_prints_through_one_function() -> None:
    folder = Path(cli.__file__).parent
    for path in folder.glob("*.py"):
        if path.name not in ("__init__.py", "_echo.py"):
            assert "typer.echo(" not in path.read_text(), path.name
            assert " Text(" not in path.read_text(), path.name


def test_pictures_show_hostile_texts(tmp_path: Path) -> None:
    import numpy as np

    from hyperseek.analysis._pictures import draw_disk, write_disk_html
    from hyperseek.analysis.disk import Disk, Layout

    pytest.importorskip("matplotlib")
    evil = "</script><img src=x onerror=alert(1)>@DATA@@TITLE@$\\frac{$ \x1b[2J\u202e"
    angles = np.linspace(0, 6, 4)
    layout = Layout("the space", angles, evil)
    disk = Disk(
        title=evil,
        notes=[evil],
        ids=[evil] * 4,
        titles=[evil, "$", "$$", "a$_$"],
        rho=np.arange(4.0),
        unit=1.0,
        scale=1.0,
        parents=np.array([-1, 0, 0, 1]),
        groups=np.zeros(4, dtype=np.int64),
        names=[evil],
        palette=["#4cc9f0"],
        values=np.arange(4.0),
        by=evil,
        layouts=[layout],
    )
    draw_disk(tmp_path / "disk.png", disk, layout)
    page = write_disk_html(tmp_path / "disk.html", disk).read_text()
    assert page.count("<img") == 0
    assert page.count("</script>") == (tmp_path / "disk.html").read_text().count("<script")
    assert not obeyed(page.replace("\t", ""))
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert data["titles"][0] == printable(evil)
