"""One way to register: in a program, or by an entry point of an installed package."""

from __future__ import annotations

import importlib.metadata
import sys
import types

import pytest

from hyperseek._config import Config, OpenConfig
from hyperseek._registry import Registry
from hyperseek.errors import ConfigError, InputError, UnknownNameError

POINTS = {"text": "textwrap:dedent", "shorten": "operator:add", "broken": "there.is.none:x", "number": "math:pi"}


def check(name: str, value: object) -> None:
    if not callable(value):
        raise InputError(f"{name} is not a function")


@pytest.fixture
def functions(monkeypatch):
    points = [importlib.metadata.EntryPoint(name, value, "hyperseek.functions") for name, value in POINTS.items()]
    monkeypatch.setattr("hyperseek._registry.entry_points", lambda group: points)
    return Registry("function", "hyperseek.functions", {"shorten": "textwrap:shorten"}, check=check)


def test_ours_registered_and_installed_ones_are_found(functions):
    @functions.register("twice")
    def twice(number):
        return 2 * number

    assert functions["twice"] is twice
    assert functions["text"]("  a") == "a"
    assert list(functions) == ["broken", "number", "shorten", "text", "twice"]
    assert functions.get("nothing") is None
    functions.unregister("twice")
    assert "twice" not in functions


def test_a_taken_name_is_refused(functions, caplog):
    for taken in ("shorten", "text"):
        with pytest.raises(InputError, match=f"the name '{taken}' is taken by another function"):
            functions.register(taken, print)
    assert functions["shorten"]("a b c", 5) == "a b c"
    assert "the entry point shorten = 'operator:add' is ignored" in caplog.text


def test_a_class_may_register_itself_beside_its_entry_point(monkeypatch, tmp_path):
    (tmp_path / "twofold.py").write_text(
        "from test_registry import DECORATED\n\n\n@DECORATED.register('twice')\ndef twice(number):\n"
        "    return 2 * number\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("twice", "twofold:twice", "hyperseek.functions")
    monkeypatch.setattr("hyperseek._registry.entry_points", lambda group: [point])
    registry = Registry("function", "hyperseek.functions", check=check)
    monkeypatch.setitem(sys.modules, "test_registry", types.SimpleNamespace(DECORATED=registry))
    assert registry["twice"](4) == 8
    assert list(registry) == ["twice"]
    with pytest.raises(InputError, match="the name 'twice' is taken"):
        registry.register("twice", print)


def test_what_cannot_be_used_is_said(functions):
    with pytest.raises(UnknownNameError, match="unknown function 'txet'; did you mean 'text'"):
        functions["txet"]
    with pytest.raises(InputError, match=r"cannot load the entry point broken = 'there\.is\.none:x'"):
        functions["broken"]
    with pytest.raises(InputError, match="number is not a function"):
        functions["number"]
    for name in ("", "two words", 3, "a.b"):
        with pytest.raises(InputError, match="registered under a word"):
            functions.register(name, print)


class Colour(Config):
    name: str
    depth: int = 3


class Picture(OpenConfig):
    width: int = 1

    @classmethod
    def registered(cls):
        return {"colour": Colour}


class Frame(Config):
    picture: Picture = Picture()


def test_sections_of_registered_names_are_validated():
    frame = Frame.from_mapping({"picture": {"width": 2, "colour": {"name": "red"}}})
    assert frame.picture.colour == Colour(name="red")
    assert frame.picture.section("colour") is frame.picture.colour
    assert Picture().section("colour") is None
    assert Frame.from_mapping(frame.model_dump(mode="json")) == frame
    assert Frame.from_mapping({"picture": {"colour": None}}).picture.section("colour") is None
    with pytest.raises(UnknownNameError, match="unknown section 'color'; did you mean 'colour'"):
        frame.picture.section("color")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"color": {"name": "red"}},
            r"picture\.color: unknown key; did you mean 'colour'\?; known keys: colour",
        ),
        ({"colour": {"nam": "red", "name": "x"}}, r"picture\.colour\.nam: unknown key; did you mean 'name'"),
        ({"colour": {"name": "red", "depth": "deep"}}, r"picture\.colour\.depth: .*given: 'deep'"),
        ({"colour": 3}, r"picture\.colour: .*given: 3"),
        ({"width": "wide", "colour": {"name": "red"}}, r"picture\.width: .*given: 'wide'"),
    ],
)
def test_faults_in_sections_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        Frame.from_mapping({"picture": values})
