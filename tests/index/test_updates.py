"""Documents come, change and go; what is searched is one version, and always the right one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_fakes import DIMENSION, FakeRetriever

from hyperseek import HyperseekError
from hyperseek.index import Index
from hyperseek.plan import FullText, Graph, Plan, Rescore, Surrogate
from hyperseek.scoring import Space
from hyperseek.types import Document


def document(name: str, text: str = "river stone", **metadata: object) -> Document:
    return Document(name, text, metadata=metadata)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    documents = [document(f"d{number}", f"stone {'river ' * number}") for number in range(6)]
    return Index.build(tmp_path / "index", documents, FakeRetriever())  # type: ignore[arg-type]


def found(index: Index, query: str = "river", **options: object) -> list[str]:
    return [hit.id for hit in index.search(query, k=50, **options)]  # type: ignore[call-overload]


def test_added_documents_are_found_and_old_readers_keep_their_version(index: Index) -> None:
    reader = Index.open(index.path, model=index.model)
    assert found(reader)
    assert index.add([document("new", "river river river river river river river river")]) == 1
    assert found(index)[0] == "new"
    assert len(index) == 7
    assert "new" not in found(reader)
    assert len(reader) == 6
    reader.refresh()
    assert found(reader) == found(index)


def test_ids_are_unique_unless_replaced(index: Index) -> None:
    with pytest.raises(HyperseekError, match="'d3' is stored already, and 0 others"):
        index.add([document("d3"), document("d99")])
    with pytest.raises(HyperseekError, match="'x' appears twice"):
        index.add([document("x"), document("x")])
    assert len(index) == 6
    assert index.add([document("d3", "music"), document("d99", "music")], replace=True) == 2
    assert len(index) == 7
    assert index.search("music", k=2)[0].document.text == "music"  # type: ignore[union-attr]
    assert sorted(index.ids) == ["d0", "d1", "d2", "d3", "d4", "d5", "d99"]


def test_replaced_documents_move_to_the_end_in_the_order_given(tmp_path: Path) -> None:
    names = [f"d{number}" for number in range(40)]
    index = Index.build(tmp_path / "index", [document(name) for name in names], FakeRetriever())  # type: ignore[arg-type]
    given = [*names[30:4:-3], "new", *names[:4]]
    index.add([document(name, "river stone city") for name in given], replace=True)
    wanted = [name for name in names if name not in given] + given
    assert index.ids == wanted
    assert [hit.id for hit in index.search("river", k=50) if hit.id in given] == given  # ties by row
    words = index.search("city", k=50, plan=Plan(stages=(FullText(n=50),)))
    assert sorted(hit.id for hit in words) == sorted(given)
    index.add([document(name, "road") for name in names], replace=True)
    assert index.ids == ["new", *names]
    index.compact()
    assert index.ids == ["new", *names]


def test_deleted_documents_are_gone_and_their_keys_never_come_back(index: Index) -> None:
    assert index.delete(["d5", "d0", "nobody"]) == 2
    assert sorted(found(index)) == ["d1", "d2", "d3", "d4"]
    before = set(index._opened.snapshot.keys.tolist())
    index.add([document("d5")])
    assert (set(index._opened.snapshot.keys.tolist()) - before) == {6}
    with pytest.raises(HyperseekError, match=r"for one id give \['d1'\]"):
        index.delete("d1")
    assert index.delete([]) == 0


def test_all_documents_may_go_and_others_come(index: Index) -> None:
    assert index.delete(index.ids) == 6
    assert found(index) == []
    index.add([document("again")])
    assert found(index) == ["again"]
    index.compact()
    assert found(index) == ["again"]


def test_compaction_changes_nothing_but_the_files(index: Index) -> None:
    index.add([document(f"n{number}", "river " * number, year=2000 + number) for number in range(30)])
    index.delete([f"n{number}" for number in range(0, 30, 3)])
    index.add([document("d1", "river stone", year=1999)], replace=True)
    index.build_engine("hnsw")
    reader = Index.open(index.path, model=index.model)
    before = [(hit.id, hit.score) for hit in index.search("river", k=50)]
    keys, fingerprint = index._opened.snapshot.keys.tolist(), index.data_fingerprint
    index.compact()
    assert [(hit.id, hit.score) for hit in index.search("river", k=50)] == before
    assert index._opened.snapshot.keys.tolist() == sorted(keys)
    assert index.data_fingerprint == fingerprint
    assert [hit.id for hit in reader.search("river", k=50)] == [name for name, _ in before]  # its files are still there
    assert found(index, engine="hnsw")[:5] == [name for name, _ in before][:5]
    index.compact()
    del reader
    index.compact()
    tables = sorted(path.name for path in index.path.glob("*.lance"))
    assert tables == ["documents-2.lance", "documents-3.lance"]
    index.delete([index.ids[-1]])
    index.add([document("last")])
    assert index._opened.snapshot.keys.max() == max(keys) + 1


def test_the_fingerprint_follows_the_documents(index: Index) -> None:
    before = index.data_fingerprint
    index.add([document("new")])
    assert index.data_fingerprint != before
    index.delete(["new"])
    assert index.data_fingerprint == before == Index.open(index.path).data_fingerprint


def test_vectors_made_elsewhere_can_be_added(tmp_path: Path) -> None:
    index = Index.from_vectors(tmp_path / "index", [(document("a"), [1.0, 0.0])], Space("dot", 2))
    index.add([document("b"), document("c")], vectors=[[0.0, 1.0], [3.0, 0.0]])
    from hyperseek.scoring import LinearScorer

    hits = index.search(LinearScorer(index.space, torch.tensor([[1.0, 0.0]])), k=3)[0]
    assert [hit.id for hit in hits] == ["c", "a", "b"]
    with pytest.raises(HyperseekError, match="'d' has the shape"):
        index.add([document("d")], vectors=[[1.0]])
    with pytest.raises(HyperseekError, match="'e' has infinite or undefined numbers"):
        index.add([document("e")], vectors=[[float("nan"), 0.0]])


def test_files_stay_while_a_reader_has_them_open(index: Index) -> None:
    index.build_engine("lance", name="e")
    reader = Index.open(index.path, model=index.model)
    before = found(reader, engine="e")
    index.drop("e")
    for name in ("d0", "d1", "d2"):
        index.delete([name])
        index.compact()
    assert found(reader) == found(reader, engine="e") == before
    assert {"d0", "d1", "d2"} <= {document.id for document in reader.documents()}
    assert len(list(index.path.glob("documents*.lance"))) == 3  # the reader's, the one before, the newest
    reader.refresh()
    index.compact()
    assert len(list(index.path.glob("documents*.lance"))) == 2
    index.build_engine("flat")
    assert [path.name[:4] for path in (index.path / "engines").iterdir()] == ["flat"]
    assert sorted(found(reader)) == ["d3", "d4", "d5"]


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "replace", "delete", "compact", "engine"]), st.integers(0, 9)), max_size=8
    )
)
def test_any_sequence_of_changes_leaves_what_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]]
) -> None:
    model = FakeRetriever()
    path = tmp_path_factory.mktemp("changes") / "index"
    wanted = {f"d{number}": "stone " + "river " * number for number in range(3)}
    index = Index.build(path, [Document(name, text) for name, text in wanted.items()], model)  # type: ignore[arg-type]
    for step, (change, number) in enumerate(changes):
        name, text = f"d{number}", f"music {'road ' * step}"
        if change == "add" and name not in wanted:
            index.add([Document(name, text)])
            wanted[name] = text
        elif change == "replace":
            index.add([Document(name, text)], replace=True)
            wanted[name] = text
        elif change == "delete":
            assert index.delete([name]) == (name in wanted)
            wanted.pop(name, None)
        elif change == "compact":
            index.compact()
        elif change == "engine":
            index.build_engine("flat")
    stored = {document.id: document.text for document in index.documents()}
    assert stored == wanted
    exact = [(hit.id, round(hit.score, 3)) for hit in index.search("road music", k=20, engine="exact")]
    vectors = model.encode_documents(list(wanted.values())).vectors if wanted else torch.empty(0, DIMENSION)
    query = model.encode_documents(["road music"]).vectors[0]
    assert sorted(score for _, score in exact) == sorted(round(float(score), 3) for score in vectors @ query)
    if index.attachments:
        through = {hit.id: round(hit.score, 3) for hit in index.search("road music", k=20, engine="flat")}
        assert through == dict(exact)


@pytest.mark.parametrize(("where", "wanted"), [(None, ["again", "other"]), ("n > 3", ["again"]), ("n < 0", [])])
def test_engines_and_graphs_outlive_all_documents(index: Index, where: str | None, wanted: list[str]) -> None:
    index.add([document("numbered", n=7)])
    index.build_engine("flat")
    index.build_graph(degree=2)
    index.delete(index.ids)
    assert found(index, engine="flat", where=where) == []
    assert found(index, plan=Plan(stages=(Graph(),)), where=where) == []
    assert found(index, plan=Surrogate(engine="flat") >> Rescore(), where=where) == []
    index.add([document("again", n=4), document("other", n=2)])
    assert found(index, engine="flat", where=where) == wanted
    assert found(index, plan=Plan(stages=(Graph(),)), where=where) == wanted


def test_an_interrupted_graph_goes_on_where_it_stopped(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperseek.graph import NeighbourGraph

    build, places = NeighbourGraph.build, []

    def interrupted(folder: Path, *arguments: object, **options: object) -> NeighbourGraph:
        places.append(folder)
        if len(places) == 1:
            folder.mkdir(parents=True)
            (folder / "begun").touch()
            raise KeyboardInterrupt
        assert (folder / "begun").exists() == (len(places) == 2)
        return build(folder, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(NeighbourGraph, "build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.build_graph(degree=2)
    assert index.attachments == ()
    index.build_graph(degree=2)
    assert places[0] == places[1]
    index.build_graph(degree=3)  # another graph of the same documents, in place of the first
    assert len({*places}) == 2
    assert [item.name for item in index.attachments] == ["graph"]
    assert not places[0].exists()
