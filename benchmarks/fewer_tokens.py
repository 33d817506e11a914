"""Time of pooling token vectors, beside sentence-transformers' hierarchical pooling, and of encoding pruned texts.

    python benchmarks/fewer_tokens.py COLLECTION [--lengths 512 2048 8192] [--factor 2] [--repeats 5] [--texts 48]

COLLECTION is anything `open_dataset` reads. The tokens are the packaged MiniLM's last states, mapped to 128 numbers by
an orthogonal matrix, of as many texts one after the other as a document of that length needs. Systems take turns, and
the ratio to sentence-transformers is the median of the rounds' ratios. Encoding is timed for texts of at most 256
tokens.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask

from _hardware import describe_hardware, median_ratio, take_turns
from hyperseek import open_dataset
from hyperseek.models import LateRetriever
from hyperseek.models.light import resolve_name
from hyperseek.nn.token_pooling import TokenPooling
from hyperseek.nn.token_pruning import PruningTransformer

POOLED = {
    "average, cosine": {},
    "ward, euclidean": {"linkage": "ward", "distance": "euclidean"},
    "ward, cosine (scipy)": {"linkage": "ward"},
    "k_means": {"method": "k_means"},
    "sequential": {"method": "sequential"},
    "attention": {"method": "attention"},
}
PRUNED = {
    "all tokens": None,
    "idf 0.6": {"keep_ratio": 0.6},
    "idf 0.3": {"keep_ratio": 0.3},
    "first layer 0.6": {"keep_ratio": 0.6, "importance": "first_layer"},
    "first layer 0.3": {"keep_ratio": 0.3, "importance": "first_layer"},
    "gate 0.3": {"keep_ratio": 0.3, "importance": "gate"},
}


def late(trunk: Transformer) -> LateRetriever:
    modules = [trunk, MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    return LateRetriever(MultiVectorEncoder(modules=modules, device="cpu"))


def time_pooling(tokens: torch.Tensor, factor: float, repeats: int) -> None:
    # One protected token and no renormalisation on both sides.
    theirs = HierarchicalTokenPooling(factor, normalize_embeddings=False)
    systems = {"sentence-transformers": lambda: theirs.pool_one(tokens)}
    for name, options in POOLED.items():
        pooling = TokenPooling(pool_factor=factor, **options)
        systems[name] = lambda pooling=pooling: pooling.pool_one(tokens)
    seconds = take_turns(systems, repeats)
    for name, times in seconds.items():
        ratio = median_ratio(times, seconds["sentence-transformers"])
        print(f"  {name:24} {1000 * statistics.median(times):9.1f} ms   {ratio:6.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--texts", type=int, default=48)
    arguments = parser.parse_args()
    print(describe_hardware())
    texts = [document.full_text for document in open_dataset(arguments.collection).documents()]

    def trunk() -> Transformer:
        return Transformer(resolve_name("minilm"), document_length=256)

    plain = late(trunk())
    longest = max(arguments.lengths)
    states = plain.encode_documents(texts[: 16 + longest // 100], dtype="float32").vectors
    if len(states) < longest:
        raise SystemExit(f"the collection has {len(states)} tokens; give shorter --lengths")
    turned = torch.nn.init.orthogonal_(torch.empty(128, 384), generator=torch.Generator().manual_seed(0))
    tokens = torch.nn.functional.normalize(states @ turned.T, dim=1)
    for length in arguments.lengths:
        print(f"pooling {length} tokens by {arguments.factor}: median, and share of sentence-transformers' time")
        # Short documents take a millisecond: more rounds.
        time_pooling(tokens[:length].clone(), arguments.factor, arguments.repeats * max(1, 2048 // length))

    some = texts[: arguments.texts]
    systems = {}
    for name, options in PRUNED.items():
        first = trunk() if options is None else PruningTransformer.around(trunk(), options)
        if options is not None:
            first.fit_importance(texts)
        model = late(first)
        systems[name] = lambda model=model: model.encode_documents(some, dtype="float32")
    kept = {name: len(encode().vectors) for name, encode in systems.items()}
    seconds = take_turns(systems, max(3, arguments.repeats // 2))
    print(f"encoding {len(some)} texts: tokens kept, median, and share of the time of all tokens")
    for name, times in seconds.items():
        ratio = median_ratio(times, seconds["all tokens"])
        print(f"  {name:24} {kept[name]:7,} {statistics.median(times):7.2f} s   {ratio:6.3f}")


if __name__ == "__main__":
    main()
