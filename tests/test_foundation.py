from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field

from hyperseek import HyperseekError, _files
from hyperseek._config import Config, apply_overrides, read_yaml
from hyperseek._files import atomic_write, read_json, write_json
from hyperseek._fingerprint import fingerprint_file, fingerprint_json, fingerprint_tensors, fingerprint_texts
from hyperseek._long_work import progress, set_quiet
from hyperseek.errors import ConfigError, MissingExtraError, require, shown
from hyperseek.types import Document


class Inner(Config):
    rate: float = Field(default=0.1, gt=0)
    name: str = "x"


class Outer(Config):
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()


def test_configurations_read_yaml_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("inner: {rate: 1e-3}\nparts: [{name: a}]\n")
    outer = Outer.from_yaml(tmp_path / "recipe.yaml", ["inner.name=b", "inner.rate=2e-5"])
    assert outer == Outer(inner=Inner(rate=2e-5, name="b"), parts=(Inner(name="a"),))
    assert Outer.from_mapping(outer.model_dump()) == outer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iner": {}}, "iner: unknown key; did you mean 'inner'\\?; known keys: inner, parts"),
        ({"inner": {"rat": 1}}, r"inner\.rat: unknown key; did you mean 'rate'\?; known keys: name, rate"),
        ({"parts": [{"nmae": "a"}]}, r"parts\.0\.nmae: unknown key; did you mean 'name'"),
        ({"inner": {"rate": 0}}, r"inner\.rate: .*greater than 0.*given: 0"),
        ({"inner": {"rate": "fast"}}, r"inner\.rate: .*given: 'fast'"),
    ],
)
def test_faults_name_the_key_and_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        Outer.from_mapping(values)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.rate", "section.field=value"),
        ("=1", "section.field=value"),
        ("a..b=1", "section.field=value"),
        ("inner.rate.x=1", "has no fields"),
        ("inner.name=[", "not valid YAML"),
    ],
)
def test_bad_overrides_are_refused(override: str, message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        apply_overrides({"inner": {"rate": 1}}, [override])


def test_overrides_leave_their_input_alone() -> None:
    values: dict[str, Any] = {"a": {"b": 1}}
    assert apply_overrides(values, ["a.b=2", "c.d=[1, x]", "e="]) == {"a": {"b": 2}, "c": {"d": [1, "x"]}, "e": None}
    assert values == {"a": {"b": 1}}


def test_bad_yaml_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HyperseekError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    for text, message in (("a: [", "not valid YAML"), ("- 1", "not a list")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(HyperseekError, match=message):
            read_yaml(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("")
    assert read_yaml(tmp_path / "bad.yaml") == {}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file.txt"
    with atomic_write(target) as file:
        file.write("old")

    def fail() -> None:
        with atomic_write(target) as file:
            file.write("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]
    current = os.umask(0)
    os.umask(current)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~current


def test_json_round_trip(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"ä": [1, None, tmp_path]})
    assert read_json(tmp_path / "x.json") == {"ä": [1, None, str(tmp_path)]}


def test_fingerprints_depend_on_content_alone(tmp_path: Path) -> None:
    assert fingerprint_json({"a": 1, "b": 2}) == fingerprint_json({"b": 2, "a": 1})
    assert fingerprint_texts(["ab", "c"]) != fingerprint_texts(["a", "bc"])
    assert fingerprint_texts([]) != fingerprint_texts([""])
    one, two = ("a", torch.zeros(2)), ("b", torch.ones(3).to(torch.bfloat16))
    assert fingerprint_tensors([one, two]) == fingerprint_tensors([two, one])
    assert fingerprint_tensors([("a", torch.zeros(2))]) != fingerprint_tensors([("a", torch.zeros(2, 1))])
    (tmp_path / "f").write_bytes(b"x")
    assert len(fingerprint_file(tmp_path / "f")) == 32


def test_missing_extras_name_the_command() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'hyperseek\[faiss\]'"):
        require("no_such_module_at_all", extra="faiss")


def test_short_steps_are_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    set_quiet(False)
    with progress("working", 3, unit="things") as bar:
        bar.advance()
        bar.describe("still working")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_long_steps_print_lines_without_a_terminal(
    quiet: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperseek._long_work._INTERVAL", 0.05)
    set_quiet(quiet)
    try:
        with progress("working", 3000, unit="things", done=1000) as bar:
            bar.advance(500)
            # Nothing is reported meanwhile: a single unit may take an hour.
            deadline = time.monotonic() + (0.3 if quiet else 10)
            said = ""
            while time.monotonic() < deadline and said.count("\n") < 2:
                time.sleep(0.02)
                said += capfd.readouterr().err
    finally:
        set_quiet(False)
    if quiet:
        assert said == ""
    else:
        assert re.match(r"working: 1,500 of 3,000 things, [0-9.e+]+ a second, [^,]+ left, \d+ s so far\n", said), said


FORKING = """
import os
from hyperseek import _long_work

with _long_work.progress("of the parent", 3):
    _long_work._ticker._lock.acquire()  # as the thread that prints may hold it
    child = os.fork()
    if child:
        _long_work._ticker._lock.release()
    else:
        with _long_work.progress("of the child", 3):
            os._exit(len(_long_work._ticker._steps) - 1)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_reports_its_own_steps_alone() -> None:
    # A child that waits for the parent's lock would wait for ever.
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False, timeout=60).returncode == 0


def test_full_text_joins_title_and_text() -> None:
    assert Document("1", "body", "Title").full_text == "Title body"
    assert Document("1", "body").full_text == "body"


@pytest.mark.parametrize("code", ["import hyperseek; dir(hyperseek)", "import hyperseek.cli"])
def test_imports_stay_light(code: str) -> None:
    heavy = "{'torch', 'transformers', 'sentence_transformers', 'numpy', 'lance', 'datasets', 'pydantic'}"
    check = f"{code}; import sys; found = {heavy} & set(sys.modules); sys.exit(repr(found) if found else 0)"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_values_in_messages_are_short_however_often_they_share_their_parts() -> None:
    value: list[object] = []
    for _ in range(60):
        value = [value, value]
    start = time.monotonic()
    assert len(shown(value)) <= 80
    assert shown([1, "a"]) == "[1, 'a']"
    assert time.monotonic() - start < 1


class Trunk(Config):
    """A trunk.

    Attributes:
        path: Its folder. More is said here.
    """

    path: str


class Loop(Config):
    steps: int = 1
    rate: float = 1.0


class Run(Config):
    """A run.

    Attributes:
        trunk: What is trained,
            in two lines.
        loop: How.
    """

    trunk: Trunk
    loop: Loop


def test_a_missing_field_is_described() -> None:
    with pytest.raises(ConfigError) as caught:
        Run.from_mapping({})
    assert str(caught.value).splitlines()[1:] == [
        "  trunk: missing (What is trained, in two lines); write trunk: {path: VALUE}, or trunk.path=VALUE on the "
        "command line",
        "  loop: missing (How); write loop: {FIELD: VALUE}, or loop.FIELD=VALUE on the command line; its fields: rate, "
        "steps",
    ]
    with pytest.raises(
        ConfigError, match=r"trunk\.path: missing \(Its folder\); write path: VALUE, or trunk\.path=VALUE"
    ):
        Run.from_mapping({"trunk": {}, "loop": {}})


def test_who_waits_for_a_lock_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_files, "_SILENT", 0.05)
    taken, entered = threading.Event(), []

    def hold() -> None:
        with _files.locked(tmp_path / "lock"):
            taken.set()
            while not caplog.messages:
                time.sleep(0.01)
            entered.append("first")

    other = threading.Thread(target=hold)
    other.start()
    assert taken.wait(10)
    with _files.locked(tmp_path / "lock"):
        entered.append("second")
    other.join()
    assert entered == ["first", "second"]
    assert caplog.messages == [f"another process holds {tmp_path / 'lock'}; waiting until it ends"]


def test_a_pipe_is_written_into_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with atomic_write(pipe) as file:
        file.write("a line\n")
    reader.join(timeout=10)
    assert got == ["a line\n"]
    assert pipe.is_fifo()


def test_tensors_are_read_into_aligned_memory(tmp_path: Path) -> None:
    """At other addresses, some processors round products of the same numbers otherwise."""
    tensors = {f"t{size}": torch.arange(size, dtype=torch.float32) for size in (1, 3, 50)}
    _files.write_tensors(tmp_path / "x.safetensors", tensors)
    read, _ = _files.read_tensors(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
        assert read[name].data_ptr() % 64 == 0


def test_output_may_be_appended_to_a_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as log:
        log.write(b"earlier\n")
        log.flush()
        subprocess.run([sys.executable, "-m", "hyperseek", "--version"], stdout=log, stderr=log, check=True)
    assert re.fullmatch(r"earlier\n[\d.]+\n", (tmp_path / "log").read_text())
