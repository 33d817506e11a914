from __future__ import annotations

import shutil
import sysconfig
import time
from pathlib import Path

import pytest

from hyperseek.data import open_dataset, write_beir
from hyperseek.data._known_collections import Docstring, build_pydocs, divide, installed_package, split_of
from hyperseek.data.reading import Faults
from hyperseek.errors import DataError


def test_standard_library_is_a_collection(pydocs):
    assert pydocs.splits == ("dev", "test", "train")
    assert pydocs.count() > 1500
    sizes = {split: len(pydocs.qrels(split)) for split in pydocs.splits}
    assert sizes["train"] > 700
    assert sizes["dev"] > 150
    assert sizes["test"] > 250
    assert sum(sizes.values()) == len(pydocs.queries())


def test_a_known_document(pydocs):
    document = next(document for document in pydocs.documents() if document.id == "textwrap.dedent")
    query = next(query for query in pydocs.queries() if query.id == "q-textwrap.dedent")
    assert document.title == "textwrap.dedent"
    assert query.text == "Remove any common leading whitespace from every line in `text`."
    assert document.text.startswith("This can be used to make triple-quoted strings line up")
    assert document.metadata == {"module": "textwrap", "kind": "function", "parents": ["textwrap"]}
    assert pydocs.qrels(split_of("textwrap"))["q-textwrap.dedent"] == {"textwrap.dedent": 1}


def test_judgements_are_unambiguous(pydocs):
    texts = {document.id: " ".join(document.text.lower().split()) for document in pydocs.documents()}
    assert len(set(texts.values())) == len(texts)
    queries = {query.id: " ".join(query.text.lower().split()) for query in pydocs.queries()}
    assert len(set(queries.values())) == len(queries)
    for split in pydocs.splits:
        for query_id, judged in pydocs.qrels(split).items():
            ((document_id, grade),) = judged.items()
            assert (grade, query_id) == (1, f"q-{document_id}")
            assert queries[query_id] not in texts[document_id]


def test_splits_share_no_module(pydocs):
    modules = {
        split: {query_id.removeprefix("q-").split(".")[0] for query_id in pydocs.qrels(split)}
        for split in pydocs.splits
    }
    assert not modules["train"] & modules["test"]
    assert not modules["train"] & modules["dev"]
    assert not modules["dev"] & modules["test"]


def test_tests_and_applications_are_left_out(pydocs):
    for document in pydocs.documents():
        parts = document.metadata["module"].split(".")
        assert not {"test", "tests", "idlelib", "lib2to3", "distutils"} & set(parts)


def test_the_same_every_time_and_fast(pydocs):
    start = time.process_time()
    again = open_dataset("pydocs")
    again.count()
    # 1.6 s of one core where it was written.
    assert time.process_time() - start < 10
    assert again.fingerprint() == pydocs.fingerprint()


def test_what_was_left_out_is_counted(pydocs):
    pydocs.count()
    assert set(pydocs.report.counts) >= {"body_too_short", "same_body_elsewhere", "same_summary_elsewhere"}


def test_beir_folder(pydocs, tmp_path):
    write_beir(pydocs, tmp_path / "out")
    assert open_dataset(tmp_path / "out").fingerprint() == pydocs.fingerprint()


def few_modules(folder):
    """Return a function for that of sysconfig: where a library of few of Python's modules is."""
    source, library = Path(sysconfig.get_path("stdlib")), folder / "library"
    shutil.copytree(source / "json", library / "json")
    for name in ("textwrap.py", "difflib.py"):
        shutil.copy(source / name, library)
    return lambda name: str(library)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "strange_fruit"
    (folder / "tests").mkdir(parents=True)
    (folder / "sub").mkdir()
    body = "The body has at least ten words, which is what a body needs."
    (folder / "__init__.py").write_text(f'"""A package of fruit.\n\n{body}\n"""\nraise RuntimeError("imported")\n')
    (folder / "tests/__init__.py").write_text(f'"""Not a document.\n\n{body} One.\n"""\n')
    (folder / "test_it.py").write_text(f'"""Nor is this one.\n\n{body} Two.\n"""\n')
    (folder / "broken.py").write_text("def (:\n")
    (folder / "sub/apple.py").write_text(
        f'''
if True:
    class Apple:
        """A fruit that keeps doctors away.

        {body} Three.
        """

        async def eat(self):
            """Bite into the apple until
            it is gone

            {body} Four.
            """

        def _hidden(self):
            """This is a private thing.

            {body} Five.
            """

        def __len__(self):
            """Return the length of an apple.

            {body} Six.
            """
'''
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "strange_fruit"


def test_installed_package_is_parsed_but_not_imported(package):
    found = {docstring.path: docstring for docstring in installed_package(package)}
    assert sorted(found) == [
        "strange_fruit",
        "strange_fruit.sub.apple.Apple",
        "strange_fruit.sub.apple.Apple.__len__",
        "strange_fruit.sub.apple.Apple.eat",
    ]
    apple = found["strange_fruit.sub.apple.Apple.eat"]
    assert (apple.kind, apple.module) == ("method", "strange_fruit.sub.apple")
    assert apple.parents == [
        "strange_fruit",
        "strange_fruit.sub",
        "strange_fruit.sub.apple",
        "strange_fruit.sub.apple.Apple",
    ]
    assert found["strange_fruit"].kind == "module"


def test_installed_packages_join_the_standard_library(package, tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", few_modules(tmp_path))
    pydocs = open_dataset("pydocs")
    assert pydocs.count() > 10
    dataset = open_dataset(f"pydocs:{package}")
    assert dataset.name == "pydocs-strange_fruit"
    assert dataset.count() == pydocs.count() + 4
    query = next(query for query in dataset.queries() if query.id.endswith("Apple.eat"))
    assert query.text == "Bite into the apple until it is gone"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package", "is not installed"),
        ("__main__", "is not installed"),
        ("a.b", "is not the import name"),
        ("sys", "has no Python sources"),
    ],
)
def test_packages_that_cannot_be_read(name, message):
    with pytest.raises(DataError, match=message):
        list(installed_package(name))


def test_python_without_sources(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="has no Python sources of the standard library"):
        open_dataset("pydocs").count()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One line.", ("One line.", "")),
        ("One line.\nThe rest\nof it.", ("One line.", "The rest\nof it.")),
        ("A summary\nof two lines\n\nThe rest.", ("A summary of two lines", "The rest.")),
        ("Really?\n\nYes.", ("Really?", "Yes.")),
    ],
)
def test_divide(text, expected):
    assert divide(text) == expected


BODY = "one two three four five six seven eight nine ten"


def docstring(path, text):
    return Docstring(path, "module", "function", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A good summary.\n\nshort body", "body_too_short"),
        (f"Too short.\n\n{BODY}", "summary_too_short_or_long"),
        (f"{'very ' * 60}long.\n\n{BODY}", "summary_too_short_or_long"),
        (f"f(a, b) -> what it gives.\n\n{BODY}", "summary_is_code"),
        (f">>> some code here\n\n{BODY}", "summary_is_code"),
        (f"The good summary.\n\n{BODY} The  GOOD\nsummary.", "summary_in_body"),
    ],
)
def test_what_does_not_qualify(text, reason):
    collected, report = build_pydocs([docstring("module.f", text)])
    assert list(collected.documents(Faults())) == []
    assert report.counts == {reason: 1}


def test_duplicates():
    collected, report = build_pydocs(
        [
            docstring("module.a", f"The first summary.\n\n{BODY}"),
            docstring("module.a", f"The same path.\n\n{BODY} again"),
            docstring("module.b", f"Another good summary.\n\n{BODY.upper()}"),
            docstring("module.c", f"The first  summary.\n\n{BODY} differs"),
            docstring("module.d", f"A unique summary.\n\n{BODY} differs too"),
        ]
    )
    assert [document.id for document in collected.documents(Faults())] == ["module.a", "module.c", "module.d"]
    assert [query.id for query in collected.queries(Faults())] == ["q-module.d"]
    assert report.counts == {"same_path_twice": 1, "same_body_elsewhere": 1, "same_summary_elsewhere": 2}


def test_splits_do_not_depend_on_the_process():
    names = ("json", "json.decoder", "os.path", "zipfile", "logging.handlers")
    assert [split_of(name) for name in names] == ["train", "train", "test", "test", split_of("logging")]
