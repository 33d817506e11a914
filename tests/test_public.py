from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hyperseek


def test_every_public_name_resolves_and_is_known_to_type_checkers() -> None:
    source = Path(hyperseek.__file__).read_text()
    for name in hyperseek.__all__:
        assert getattr(hyperseek, name) is not None
        assert f'"{name}",' in source
    homes = set(hyperseek._HOMES) | {"__version__"}
    assert homes == set(hyperseek.__all__)


def test_help_lists_every_verb_and_loads_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hyperseek", "--help"], capture_output=True, text=True, check=True
    )
    for verb in ("demo", "prepare", "train", "encode", "search", "evaluate", "convert"):
        assert verb in result.stdout
    for heavy in ("torch", "transformers", "lance", "pydantic", "numpy"):
        assert f"| {heavy}\n" not in result.stderr


def test_errors_of_the_library_are_one_line_and_exit_code_2() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hyperseek", "recipes", "none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("hyperseek: ")
    assert "unknown recipe 'none'" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_version_is_printed() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "hyperseek", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == hyperseek.__version__
