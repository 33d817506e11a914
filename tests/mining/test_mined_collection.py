"""Mining on a real collection, with words alone, so that nothing has to be encoded."""

from __future__ import annotations

from itertools import islice

from mining_fakes import ReadableRetriever

from hyperseek.data import examples_from_qrels, open_dataset, read_examples, write_examples
from hyperseek.index import Index
from hyperseek.mining import MiningOptions, RefineOptions, refine


class Flat(ReadableRetriever):
    """Compiles any text; its scores do not matter where words find the candidates."""

    def compile_batches(self, queries, options=None):
        yield from super().compile_batches(["0"] * len(queries))


def test_words_find_hard_negatives_and_no_relevant_document(collections, tmp_path):
    dataset = open_dataset(collections / "scifact")
    qrels = dataset.qrels("train")
    write_examples(islice(examples_from_qrels(dataset, "train"), 50), tmp_path / "plain")
    relevant = {document_id for judged in qrels.values() for document_id, grade in judged.items() if grade > 0}
    corpus = islice(sorted(dataset.documents(), key=lambda document: (document.id not in relevant, document.id)), 1000)
    index = Index.build(tmp_path / "index", corpus, Flat(), name="scifact")
    options = RefineOptions(
        mining=MiningOptions(negatives=3, margin=None, plan={"stages": [{"kind": "full_text", "n": 30}]})
    )
    info = refine(tmp_path / "plain", tmp_path / "out", mine=index, options=options)
    assert (info.examples, info.negatives, info.refined[0].short) == (50, 150, 0)
    assert info.dropped.counts["relevant_document"] > 30
    for one in read_examples(tmp_path / "out"):
        judged = qrels[one.query.id.partition("/")[2]]
        assert all(judged.get(item.id.partition("/")[2], 0) == 0 for item in one.negatives)
        words = set(one.query.text.lower().split())
        assert any(words & set(item.text.lower().split()) for item in one.negatives)
