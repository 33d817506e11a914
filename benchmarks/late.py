"""Late interaction on real text: exact MaxSim timed, and what MUVERA and learned encodings find of its top 10.

    python benchmarks/late.py COLLECTION [--model MODEL] [--layers 6] [--documents 1500] [--queries 100]

COLLECTION is anything `open_dataset` reads. Without a model, the tokens are the packaged MiniLM's states after so many
of its 6 layers, scaled to norm 1, without a projection. It was never trained for late interaction: its last states
nearly agree within a text, so the mean of the tokens, the first line, already finds most, and after 0 layers they are
word vectors. A trained ColBERT lies between.

"scoring" takes turns with sentence-transformers' own similarity and with the bare matrix products. "recall@10" is the
share of the exact top 10 among so many candidates with the largest inner product of encodings. Learned encodings are
fitted to the documents alone; the seconds of that are printed, and "documents/s" is what comes after it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from _hardware import describe_hardware, take_turns
from hyperseek import load, open_dataset
from hyperseek.geometry.tokens import TokenEncoding
from hyperseek.models import LateRetriever
from hyperseek.models.light import resolve_name
from hyperseek.scoring import MaxSimScorer, TokenPoints

# Repetitions, bits, projected, sketched; the first is one mean a document.
ENCODINGS = [
    (1, 0, None, None),
    (10, 3, 16, None),
    (20, 2, 16, None),
    (20, 4, 4, None),
    (20, 1, 64, None),
    (40, 2, 16, None),
    (20, 3, 16, None),
    (10, 3, 32, None),
    (40, 3, 8, None),
    (20, 4, 8, None),
    (20, 5, 4, None),
    (5, 4, 32, None),
    (20, 3, None, 2560),
    (20, 4, 16, None),
    (20, 4, 32, None),
]
# Width, sample, epochs.
LEARNED = [(640, 4096, 0), (1280, 4096, 0), (1280, 4096, 10), (2560, 4096, 0), (2560, 4096, 10)]
CANDIDATES = (10, 100, 300, 1000)


def make_model(name: str | None, layers: int) -> LateRetriever:
    if name is not None:
        model = load(name)
        if not isinstance(model, LateRetriever):
            raise SystemExit(f"{name} gives one vector a document; this benchmark needs a multi-vector model")
        return model
    trunk = Transformer(resolve_name("minilm"), document_length=256, query_length=64)
    trunk.model.encoder.layer = trunk.model.encoder.layer[:layers]
    return LateRetriever(
        MultiVectorEncoder(modules=[trunk, MultiVectorMask(), Normalize(module_input_name="token_embeddings")])
    )


def time_scoring(scorer: MaxSimScorer, documents: TokenPoints, *, queries: int, repeats: int) -> None:
    few = scorer[:queries]
    query_tokens = [tokens[mask > 0] for tokens, mask in zip(few.queries, few.mask, strict=True)]
    joined = torch.cat(query_tokens).T.contiguous()
    document_tokens = list(torch.split(documents.vectors, documents.lengths.tolist()))
    reference = MultiVectorEncoder.similarity
    container = MultiVectorEncoder(modules=[Normalize(module_input_name="token_embeddings")], device="cpu")
    blocks = torch.split(documents.vectors, 4096)
    with torch.inference_mode():
        seconds = take_turns(
            {
                "hyperseek": lambda: few.score(documents),
                "sentence-transformers": lambda: reference(container, query_tokens, document_tokens),
                "matrix products alone": lambda: [block @ joined for block in blocks],
            },
            repeats,
        )
    print(f"\nScoring {len(documents):,} documents with {queries} queries of {joined.shape[1] / queries:.0f} tokens:\n")
    print("| | ms | GFLOP/s |\n|---|---|---|")
    flops = 2 * documents.vectors.numel() * joined.shape[1]
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"| {name} | {1000 * middle:.0f} | {flops / middle / 1e9:.0f} |")


def print_recall(scorer: MaxSimScorer, documents: TokenPoints, candidates: Sequence[int]) -> None:
    exact = scorer.score(documents).topk(10, dim=1).indices
    queries = torch.where(scorer.mask[..., None] > 0, scorer.queries * scorer.mask[..., None], 0.0)
    heads = " | ".join(f"recall@10 in {count}" for count in candidates)
    print("\n| repetitions | bits | projected | sketched | numbers | " + heads + " | documents/s |")
    print("|---" * (6 + len(candidates)) + "|")
    for repetitions, bits, projected, sketched in ENCODINGS:
        encoding = TokenEncoding(
            documents.dimension, repetitions=repetitions, bits=bits, projected=projected, sketched=sketched
        )
        start = time.perf_counter()
        encoded = encoding.encode_documents(documents.vectors, documents.offsets)
        rate = len(documents) / (time.perf_counter() - start)
        order = (encoding.encode_queries(queries) @ encoded.T).argsort(dim=1, descending=True)
        found = [(order[:, :count, None] == exact[:, None]).any(dim=1).float().mean() for count in candidates]
        shares = " | ".join(f"{float(share):.3f}" for share in found)
        settings = " | ".join("all" if value is None else str(value) for value in (repetitions, bits, projected))
        print(f"| {settings} | {sketched or '-'} | {encoding.width:,} | {shares} | {rate:,.0f} |", flush=True)


def print_learned(scorer: MaxSimScorer, documents: TokenPoints, candidates: Sequence[int]) -> None:
    exact = scorer.score(documents).topk(10, dim=1).indices
    heads = " | ".join(f"recall@10 in {count}" for count in candidates)
    print(f"\n| learned, numbers | sample | epochs | {heads} | fitted in, s | documents/s |")
    print("|---" * (5 + len(candidates)) + "|")
    for width, sample, epochs in LEARNED:
        settings = {"encoding": "learned", "width": width, "sample": sample, "epochs": epochs}
        start = time.perf_counter()
        chart = scorer.space.chart(
            "inner_product", fitted=scorer.space.fit_features([documents], **settings), **settings
        )
        fitting = time.perf_counter() - start
        start = time.perf_counter()
        encoded = chart.lift_documents(documents)
        rate = len(documents) / (time.perf_counter() - start)
        order = (scorer.lift(chart) @ encoded.T).argsort(dim=1, descending=True)
        found = [(order[:, :count, None] == exact[:, None]).any(dim=1).float().mean() for count in candidates]
        shares = " | ".join(f"{float(share):.3f}" for share in found)
        print(f"| {width:,} | {sample:,} | {epochs} | {shares} | {fitting:.0f} | {rate:,.0f} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("--model")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(describe_hardware())
    dataset = open_dataset(arguments.collection)
    texts = [document.full_text for document in itertools.islice(dataset.documents(), arguments.documents)]
    queries = [query.text for query in itertools.islice(dataset.queries(), arguments.queries)]
    model = make_model(arguments.model, arguments.layers)
    start = time.perf_counter()
    documents, scorer = model.encode_documents(texts), model.compile(queries)
    assert isinstance(scorer, MaxSimScorer)
    print(
        f"\n{dataset.name}: {len(documents):,} documents, {len(documents.vectors):,} tokens of {documents.dimension} "
        f"numbers, encoded in {time.perf_counter() - start:.0f} s; {len(scorer)} queries; "
        f"{arguments.model or f'MiniLM, {arguments.layers} layers'}"
    )
    time_scoring(scorer, documents, queries=min(8, len(scorer)), repeats=arguments.repeats)
    candidates = [count for count in CANDIDATES if count <= len(documents)]
    print_recall(scorer, documents, candidates)
    print_learned(scorer, documents, candidates)


if __name__ == "__main__":
    main()
