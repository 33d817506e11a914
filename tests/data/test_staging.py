"""Folders that are there whole or not at all, and what killed processes leave beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyperseek._folders import check_replaceable, remove_unheld, scratch_folder, staged_folder

_KILLED = """
import sys, time
from pathlib import Path
from hyperseek._folders import staged_folder
with staged_folder(Path(sys.argv[1]), overwrite=False, owned=()) as staging:
    (staging / "half").write_text("half")
    print("staged", flush=True)
    time.sleep(60)
"""


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_what_a_killed_process_left_goes_with_the_next_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "out"
    other = ".outer.1-aa.tmp"
    (tmp_path / other).mkdir()
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "staged\n"
    [theirs] = {*beside(target)} - {other}
    with scratch_folder(target) as ours:
        assert beside(target) == sorted([other, theirs, ours.name])
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert beside(target) == sorted([other, theirs])
    with staged_folder(target, overwrite=False, owned=()) as staging:
        (staging / "whole").write_text("whole")
        assert beside(target) == sorted([other, staging.name])
    assert beside(target) == [other]
    assert [path.name for path in target.iterdir()] == ["whole"]


@pytest.mark.parametrize("renamed", [1, 2])
def test_a_replacement_that_is_killed_half_way_is_undone_or_finished(tmp_path: Path, renamed: int) -> None:
    code = f"""
import os, signal, shutil, sys
from pathlib import Path
from hyperseek import _folders
replace, left = os.replace, [{renamed}]
def counted(*paths):
    replace(*paths)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counted
with _folders.staged_folder(Path(sys.argv[1]), overwrite=True, owned=("old",)) as staging:
    (staging / "new").write_text("new")
"""
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -signal.SIGKILL
    assert target.exists() == (renamed == 2)
    assert beside(target)
    check_replaceable(target, True, ("old", "new"))
    assert [path.name for path in target.iterdir()] == [["old", "new"][renamed - 1]]
    assert beside(target) == []


def test_a_replacement_that_is_at_work_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with scratch_folder(target) as staging:
        staging.with_suffix(".old").mkdir()
        check_replaceable(target, True, ())
        assert not target.exists()
    check_replaceable(target, True, ())
    assert target.exists()


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")

    def fail() -> None:
        with staged_folder(target, overwrite=True, owned=("old",)) as staging:
            (staging / "new").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert beside(target) == []


def test_what_another_process_deletes_meanwhile_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "left"
    folder.mkdir()
    is_dir = Path.is_dir

    def deleted_after_looking(path: Path) -> bool:
        seen = is_dir(path)
        if path == folder:
            folder.rmdir()
        return seen

    monkeypatch.setattr(Path, "is_dir", deleted_after_looking)
    assert remove_unheld(folder)
    assert not os.path.exists(folder)
