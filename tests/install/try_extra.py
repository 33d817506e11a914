"""Try what an extra is for, in an environment that has the core and this extra only: `python try_extra.py NAME`.

`.ci/extras` makes the environments. Nothing is downloaded and nothing of the test suite is needed, so that what works
here works after `pip install 'hyperseek[NAME]'`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
TEXTS = {"cat": "the cat and the dog", "moon": "the moon and a star", "sea": "fish in the sea", "tree": "a leaf"}


def tiny_encoder(folder: Path) -> str:
    """Write a random BERT and its tokenizer, and return the folder."""
    from transformers import BertConfig, BertModel, BertTokenizer

    words = sorted({word for text in TEXTS.values() for word in text.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    vocabulary_of = {word: place for place, word in enumerate(vocabulary)}
    BertTokenizer(vocab=vocabulary_of, model_max_length=64).save_pretrained(folder)
    return str(folder)


def collection(folder: Path) -> Path:
    """Write a judged collection in BEIR layout, in which every document answers its own id."""
    from hyperseek.data import Dataset, write_beir
    from hyperseek.types import Document, Query

    judged = {f"q-{name}": {name: 1} for name in TEXTS}
    dataset = Dataset.from_records(
        "toy",
        [Document(name, text) for name, text in TEXTS.items()],
        queries=[Query(f"q-{name}", text) for name, text in TEXTS.items()],
        qrels={"train": judged, "test": judged},
    )
    write_beir(dataset, folder)
    return folder


def files(folder: Path) -> None:
    from hyperseek.data import open_dataset

    place = folder / "files"
    place.mkdir()
    (place / "a.html").write_text("<title>Snails</title><body><p>They are slow.")
    (place / "b.txt").write_bytes("Grüße aus Köln, schöne Bäume".encode("latin-1"))
    dataset = open_dataset(place)
    found = {document.id: document for document in dataset.documents()}
    assert found["a.html"].text == "They are slow.", (found, dataset.report)
    assert found["b.txt"].text.startswith("Grüße"), (found, dataset.report)


def index_of_points(folder: Path, kind: str = "cosine"):  # type: ignore[no-untyped-def]
    """Return an index of 20 documents with vectors of three dimensions."""
    import torch

    from hyperseek import Document, Index, Space

    inner = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    points = torch.cat([(1 + inner.square().sum(1, True)).sqrt(), inner], 1) if kind == "lorentz" else inner
    documents = [Document(str(place), "a text", metadata={"n": place}) for place in range(20)]
    return Index.from_vectors(folder, zip(documents, points, strict=True), Space(kind, 3)), points


def core(folder: Path) -> None:
    import hyperseek

    assert find_spec("accelerate") is None, "this environment has more than the core: accelerate"
    model = hyperseek.load(tiny_encoder(folder / "encoder"), device="cpu")
    documents = [hyperseek.Document(name, text) for name, text in TEXTS.items()]
    index = hyperseek.Index.build(folder / "toy.index", documents, model)
    hits = index.search(TEXTS["moon"], k=2)
    assert (len(hits), hits[0].id) == (2, "moon"), hits


def local(folder: Path) -> None:
    import hyperseek

    documents = [hyperseek.Document(name, text) for name, text in TEXTS.items()]
    index = hyperseek.Index.build(folder / "toy.index", documents, hyperseek.load("minilm", device="cpu"))
    assert index.search("an animal that barks", k=1)[0].id == "cat"


def train(folder: Path) -> None:
    from hyperseek.training import Recipe
    from hyperseek.training import train as run

    recipe = Recipe.from_mapping(
        {
            "model": {"trunk": tiny_encoder(folder / "encoder"), "family": "qnet"},
            "data": {"sources": {"toy": {"source": f"{collection(folder / 'toy')}:train"}}},
            "losses": {"contrastive": {"temperature": 0.1}},
            "train": {"max_steps": 3, "batch_size": 2, "device": "cpu", "cache": {"folder": str(folder / "cache")}},
        }
    )
    record = run(recipe, output=folder / "run")
    assert (record.status, record.steps) == ("finished", 3)


def evaluate(folder: Path) -> None:
    from hyperseek import compare, open_dataset
    from hyperseek.evaluation import rank_bm25
    from hyperseek.mining import BM25Settings

    dataset = open_dataset(str(collection(folder / "toy")))
    names = {"BM25": None, "stemmed": BM25Settings(stemmer="english")}
    results = [
        rank_bm25(dataset, settings=settings, name=name).evaluate(dataset.qrels("test"), measures=["nDCG@10"])
        for name, settings in names.items()
    ]
    table = compare(results, tests="wilcoxon").to_markdown()
    assert "nDCG@10" in table, table
    assert "1.000" in table, table


def faiss(folder: Path) -> None:
    index, points = index_of_points(folder / "toy.index")
    for kind in ("hnsw", "ivf"):
        index.build_engine(kind)
        hits = index.search(points[7:8], k=3, engine=kind)
        assert hits[0][0].id == "7", (kind, hits)


def qdrant(folder: Path) -> None:
    index, points = index_of_points(folder / "toy.index")
    index.build_engine("qdrant")
    assert index.search(points[7:8], k=3, engine="qdrant")[0][0].id == "7"


def hub(folder: Path) -> None:
    import ir_datasets

    from hyperseek import open_dataset

    card = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files: [{{split: {split}, path: {name}.csv}}]\n"
        for name, split in (("corpus", "corpus"), ("queries", "queries"), ("qrels", "test"))
    )
    table = folder / "toy"
    table.mkdir()
    (table / "README.md").write_text(f"---\n{card}---\n")
    (table / "corpus.csv").write_text("_id,title,text\n007,,a spy\n")
    (table / "queries.csv").write_text("_id,text\nq1,who\n")
    (table / "qrels.csv").write_text("query-id,corpus-id,score\nq1,007,1\n")
    dataset = open_dataset(f"hub:{table}")
    assert [document.id for document in dataset.documents()] == ["007"]
    assert dataset.qrels("test") == {"q1": {"007": 1}}
    assert ir_datasets.registry is not None


def plot(folder: Path) -> None:
    from hyperseek.analysis import inspect_space

    index, _ = index_of_points(folder / "toy.index", "lorentz")
    inspect_space(index, by="n", neighbours=3, edges=5, output=folder / "pictures")
    pictures = list((folder / "pictures").glob("*.png"))
    assert pictures, list((folder / "pictures").iterdir())


def onnx(folder: Path) -> None:
    import onnxruntime
    import torch

    from hyperseek import HyperseekError, Space
    from hyperseek.scoring import OnnxScorer

    assert onnxruntime.get_available_providers()
    try:
        OnnxScorer(Space("dot", 2), folder / "missing.onnx", torch.zeros(1, 2)).score_own(torch.zeros(1, 1, 2))
    except HyperseekError as error:
        said = str(error)
    else:
        said = "nothing"
    assert "missing.onnx" in said, said
    encodes_alike("onnx", folder)
    encodes_alike("onnx-int8", folder)


def openvino(folder: Path) -> None:
    encodes_alike("openvino", folder)
    encodes_alike("openvino-int8", folder)


def encodes_alike(backend: str, folder: Path) -> None:
    """Compare a backend's vectors with torch's."""
    import torch

    import hyperseek

    encoder = tiny_encoder(folder / backend)
    vectors = [
        hyperseek.load(encoder, device="cpu", backend=name).encode_documents(list(TEXTS.values())).rows
        for name in (backend, None)
    ]
    assert torch.nn.functional.cosine_similarity(*vectors).min() > 0.98, backend


def mteb(folder: Path) -> None:
    import hyperseek
    from hyperseek.evaluation import MtebEncoder

    encoder = MtebEncoder(hyperseek.load(tiny_encoder(folder / "encoder"), device="cpu"))
    assert encoder.mteb_model_meta is not None


def index_of_texts(folder: Path) -> str:
    """Return the folder of an index of texts."""
    import hyperseek

    model = hyperseek.load(tiny_encoder(folder / "encoder"), device="cpu")
    documents = [hyperseek.Document(name, text) for name, text in TEXTS.items()]
    return str(hyperseek.Index.build(folder / "toy.index", documents, model).path)


def serve(folder: Path) -> None:
    from starlette.testclient import TestClient

    from hyperseek.serve import create_app

    with TestClient(create_app({"toy": index_of_texts(folder)}), base_url="http://127.0.0.1") as client:
        answer = client.get("/search", params={"q": TEXTS["moon"]})
        assert answer.json()["queries"][0]["hits"][0]["id"] == "moon", answer.text
        assert "<title>" in client.get("/").text
        page = client.get("/page/page.css")
        assert page.status_code == 200, page.text


def mcp(folder: Path) -> None:
    import asyncio

    from mcp import Client

    from hyperseek.integrations.mcp import mcp_server

    async def found() -> list[str]:
        async with Client(mcp_server(index_of_texts(folder))) as client:
            answer = await client.call_tool("search", {"query": TEXTS["moon"]})
        return [each["id"] for each in answer.structured_content["results"]]

    assert asyncio.run(found())[0] == "moon"


def langchain(folder: Path) -> None:
    from hyperseek import Index
    from hyperseek.integrations.langchain import HyperseekRetriever

    retriever = HyperseekRetriever(index=Index.open(index_of_texts(folder)))
    assert retriever.invoke(TEXTS["moon"])[0].page_content == TEXTS["moon"]


def llama_index(folder: Path) -> None:
    from hyperseek import Index
    from hyperseek.integrations.llama_index import HyperseekRetriever

    retriever = HyperseekRetriever(Index.open(index_of_texts(folder)))
    assert retriever.retrieve(TEXTS["moon"])[0].node.get_content() == TEXTS["moon"]


def haystack(folder: Path) -> None:
    from hyperseek.integrations.haystack import HyperseekRetriever

    retriever = HyperseekRetriever(index_of_texts(folder))
    assert retriever.run(query=TEXTS["moon"])["documents"][0].content == TEXTS["moon"]


def rag(folder: Path) -> None:
    import asyncio

    from hyperseek import load
    from hyperseek.errors import ModelError
    from hyperseek.evaluation import JUDGED_MEASURES, LocalGenerator, RagasJudge

    model = load(tiny_encoder(folder / "encoder"))
    judge = RagasJudge("m", url="http://127.0.0.1:9/v1", embeddings=model, retries=0)
    asked = {"user_input": "who", "response": "a cat", "retrieved_contexts": ["the cat"], "reference": "the cat"}
    for measure in judge.measures:
        fields = {name: asked[name] for name in ("user_input", *JUDGED_MEASURES[measure])}
        said = ""
        try:
            asyncio.run(judge.judge(measure, fields))
        except ModelError as error:
            said = str(error)
        assert "cannot be reached" in said, f"{measure}: {said or 'nothing answers there'}"
    assert find_spec("gguf") is not None
    assert find_spec("accelerate") is not None
    assert LocalGenerator(folder / "encoder").name.endswith("encoder")


TRIALS: dict[str, Callable[[Path], None]] = {
    "core": core,
    "eval": evaluate,
    "llama-index": llama_index,
    **{trial.__name__: trial for trial in (train, faiss, files, hub, plot, local, onnx, openvino, qdrant, mteb)},
    **{trial.__name__: trial for trial in (serve, mcp, langchain, haystack, rag)},
}


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in TRIALS:
        sys.exit(f"usage: try_extra.py NAME, one of {', '.join(TRIALS)}")
    with tempfile.TemporaryDirectory() as temporary:
        TRIALS[sys.argv[1]](Path(temporary))
