"""JSON, YAML, arrays and tensors from a stranger: bounded in size, depth and numbers, and our errors only."""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from hyperseek import HyperseekError
from hyperseek._config import Config, apply_overrides, read_yaml
from hyperseek._files import add_checksum, read_array, read_json, read_tensors, take_umask, write_json, write_tensors
from hyperseek.errors import ModelError, StoreError, UnknownNameError

LONGEST_MESSAGE = 4000


class Inner(Config):
    rate: float = Field(default=0.1, gt=0)
    options: dict[str, Any] = Field(default_factory=dict)


class Outer(Config):
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()


def aliases(levels: int) -> str:
    text = "inner: &a0 [x, x, x, x, x, x, x, x, x]\n"
    for level in range(levels):
        text += f"a{level + 1}: &a{level + 1} [{', '.join([f'*a{level}'] * 9)}]\n"
    return text


BOMBS = {
    "seven levels of aliases": aliases(7),
    "nine levels of aliases": aliases(9),
    "an alias inside itself": "inner: &a [*a]",
    "merged aliases": "a: &a {b: 1}\n"
    + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}' if i else '*a'] * 9)}]}}\n" for i in range(9)),
    "brackets": "inner: " + "[" * 5000,
    "braces": "inner: " + "{" * 5000,
    "dashes": "- " * 5000,
    "question marks": "? " * 5000,
    "indentation": "".join(" " * depth + "a:\n" for depth in range(300)),
    "an integer": "inner: {rate: " + "9" * 5000 + "}",
    "a hexadecimal integer": "inner: {rate: 0x" + "f" * 5000 + "}",
    "base 60": "inner: {rate: " + ":".join(["59"] * 3000) + "}",
    "no date": "inner: 2001-99-99",
    "no integer": "inner: !!int foo",
    "no timestamp": "inner: !!timestamp foo",
    "no truth": "inner: !!bool foo",
    "code": "inner: !!python/object/apply:os.getcwd []",
    "no character": 'inner: "\\UFFFFFFFF"',
    "values": "inner: [" + "1, " * 80_000 + "]",
    "a file": "inner: {}\n" * 300_000,
    "two documents": "inner: {}\n---\ninner: {}",
    "a list as a key": "{[1]: 2}",
    "numbers as keys": "1: 2",
    "unknown keys": "".join(f"k{number}: 1\n" for number in range(3000)),
    "a long key": "? " + "k" * 100_000 + "\n: 1\n",
    "a long value": "inner: {rate: " + "x" * 200_000 + "}",
    "a value of another type": "inner: [1, 2, 3]",
    "no number": "inner: {rate: .nan}\nparts: 3",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_in_configurations_are_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[name])
    ways: list[Callable[[], object]] = [
        lambda: Outer.from_yaml(path),
        lambda: Outer.from_mapping(apply_overrides({}, [f"inner.rate={BOMBS[name]}"])),
    ]
    for way in ways:
        start = time.process_time()
        with pytest.raises(HyperseekError) as raised:
            way()
        assert len(str(raised.value)) < LONGEST_MESSAGE
        assert time.process_time() - start < 5


def test_aliases_that_save_writing_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {rate: 2}\nb: {<<: *a, x: 1}\nc: [*a, *a]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"rate": 2}, "b": {"rate": 2, "x": 1}, "c": [{"rate": 2}] * 2}


def test_what_is_no_text_file_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    for path, message in ((tmp_path, "is not a YAML file"), (tmp_path / "latin.yaml", "latin.yaml is damaged")):
        with pytest.raises(HyperseekError, match=message):
            read_yaml(path)


def test_unknown_names_are_repeated_in_part() -> None:
    assert len(str(UnknownNameError("loss", "x" * 10**6, ["known"]))) < 200
    assert "did you mean 'known'" in str(UnknownNameError("loss", "knwon", ["known"]))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        '{"a":' * 5000,
        "[" * 70 + "]" * 70,
        "9" * 5000,
        "[-" + "9" * 41 + "]",
        "NaN",
        "[Infinity]",
        '{"a": 1e999}',
        '"\\ud800"',
        '{"\\udfff": 1}',
        "",
        "{",
        "\x00",
        "[1] [2]",
    ],
)
def test_json_is_bounded(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"a\.json is damaged, or is not a list of things.*; build it anew") as raised:
        read_json(path, "a list of things", error=StoreError, remedy="build it anew")
    assert len(str(raised.value)) < LONGEST_MESSAGE
    with pytest.raises(StoreError):
        Outer.from_json(path, "a list of things", error=StoreError)


def test_json_that_is_large_missing_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" + "1," * 100 + "1]")
    assert len(read_json(tmp_path / "a.json")) == 101
    for path, message in (
        (tmp_path / "a.json", "more than 100 bytes"),
        (tmp_path / "b.json", "does not exist"),
        (tmp_path, "is not a list"),
    ):
        with pytest.raises(StoreError, match=message):
            read_json(path, "a list", error=StoreError, largest=100)
    write_json(tmp_path / "c.json", {"a": 10**30, "b": "\U0001f600 \\ud800"})
    assert read_json(tmp_path / "c.json") == {"a": 10**30, "b": "\U0001f600 \\ud800"}


@pytest.mark.parametrize("values", [[], 3, None, "text", [[1, 2]], {"inner": {"rate": "x" * 10**6}}, {1: 2}])
def test_configurations_of_other_types_are_refused(tmp_path: Path, values: Any) -> None:
    write_json(tmp_path / "a.json", values)
    with pytest.raises(ModelError) as raised:
        Outer.from_json(tmp_path / "a.json", "a thing", error=ModelError, remedy="make it anew")
    assert str(raised.value).endswith("make it anew")
    assert len(str(raised.value)) < LONGEST_MESSAGE
    with pytest.raises(HyperseekError):
        Outer.from_mapping(values)


def test_tensors_come_back_as_they_were_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "ä": torch.zeros(0)}
    write_tensors(path, tensors, {"step": "3"})
    read, metadata = read_tensors(path)
    assert metadata == {"step": "3"}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    whole, draw, survived = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        content = bytearray(whole)
        place = draw.randrange(len(content))
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(content[: draw.randrange(len(content))] if draw.random() < 0.2 else content)
        try:
            read, _ = read_tensors(path, error=ModelError, remedy="train anew")
        except ModelError:
            continue
        # The checksum's own name is what changed.
        survived += 1
        assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert survived < 30


def test_checksums_are_added_to_what_others_wrote_and_leave_with_their_writing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.randn(3, 4).to(torch.bfloat16)}
    save_file(tensors, path, metadata={"format": "pt"})
    take_umask(path)
    plain = path.read_bytes()
    add_checksum(path)
    assert torch.equal(load_file(path)["a"], tensors["a"])
    changed = path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])
    path.write_bytes(changed)
    with pytest.raises(HyperseekError, match="not what was written"):
        read_tensors(path)
    path.write_bytes(plain[:-1] + bytes([plain[-1] ^ 1]))
    assert read_tensors(path)[1] == {"format": "pt"}


def test_arrays_are_held_against_the_size_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6.0).reshape(2, 3))
    assert np.array_equal(read_array(path, dimensions=2), np.arange(6.0).reshape(2, 3))
    for options in ({"dimensions": 1}, {"kinds": "iu"}):
        with pytest.raises(StoreError, match=r"float64 of shape \(2, 3\)"):
            read_array(path, error=StoreError, **options)
    huge = path.read_bytes().replace(b"(2, 3)", b"(99999999999, 3)")
    np.savez(tmp_path / "z.npz", a=np.zeros(2))
    for content in (huge, b"", path.read_bytes()[:-1], (tmp_path / "z.npz").read_bytes(), b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(StoreError):
            read_array(path, error=StoreError)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError):
        read_array(path, error=StoreError)
    np.save(path, np.zeros((0, 3), np.int64))
    assert read_array(path).shape == (0, 3)


def test_modes_are_those_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/x", "a/b/y"):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).chmod(0o600)
    before = os.umask(0o027)
    try:
        take_umask(tmp_path)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a/x", "a/b/y")} == {0o640}
