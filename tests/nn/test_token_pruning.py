"""Pruning before the trunk: the recorded masks, real compaction, positions, and what decides importance."""

import inspect
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.base.modules import Transformer

from hyperseek.errors import ConfigError, InputError, ModelError
from hyperseek.models import ModelConfig, build
from hyperseek.models.families import FAMILIES
from hyperseek.nn.token_pruning import PruningTransformer, generate_pruning_mask
from hyperseek.runs.recipe import recompute_activations

IMPORTANCES = ["idf", "first_layer", "gate"]
TEXTS = ["the cat and the dog in the sea", "a small neural network " * 6, "sea"]


def test_recorded_masks(golden: Path) -> None:
    recorded = dict(np.load(golden / "colbert/rembed_pruning.npz"))
    weights = recorded["mask/att"]
    checked = 0
    for name, expected in recorded.items():
        if not name.startswith("mask/") or name == "mask/att":
            continue
        strategy, ratio, *_ = name.removeprefix("mask/").split("_")
        found = generate_pruning_mask(weights, float(ratio), strategy, len(weights), 3, [0, 9], 7)
        assert found.tolist() == expected.tolist(), name
        checked += 1
    assert checked == 10


@given(
    st.lists(st.floats(0, 1), max_size=40),
    st.floats(0.01, 1),
    st.sampled_from(["length", "random", "attention", "threshold", "combined"]),
    st.integers(1, 20),
)
@settings(max_examples=80, deadline=None)
def test_masks_keep_enough(weights, ratio, strategy, fewest):
    values = np.array(weights)
    preserved = [0, len(weights) - 1] if weights else []
    kept = generate_pruning_mask(values, ratio, strategy, None, fewest, preserved, 3)
    assert len(kept) == len(weights)
    assert kept.sum() >= min(len(weights), fewest)
    assert kept[preserved].all()
    if strategy in ("length", "random", "attention"):
        wanted = min(len(weights), max(fewest, int(np.ceil(ratio * len(weights)))))
        assert wanted <= kept.sum() <= wanted + len(set(preserved))
    if strategy == "attention" and len(weights) and not kept.all():
        rest = np.setdiff1d(np.flatnonzero(kept), preserved)
        assert not len(rest) or values[rest].min() >= values[~kept].max()


def test_importance_is_asked_for():
    with pytest.raises(InputError, match="needs the importance"):
        generate_pruning_mask(None, 0.5, "attention", 9)
    assert generate_pruning_mask(None, 0.5, "combined", 9, 2).tolist() == [True] * 5 + [False] * 4


def run(module: Transformer, texts: list[str]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return module(module.preprocess(texts), task="document")


@pytest.mark.parametrize("importance", ["idf", "first_layer", "gate"])
def test_everything_kept_is_the_trunk(importance, tiny_encoder):
    trunk = Transformer(tiny_encoder).eval()
    pruned = PruningTransformer.around(trunk, {"keep_ratio": 1.0, "importance": importance})
    pruned.fit_importance(TEXTS)
    if importance == "gate":
        torch.nn.init.constant_(pruned.gate.bias, 50)  # an open gate
    found, expected = run(pruned, TEXTS), run(trunk, TEXTS)
    mask = expected["attention_mask"].bool()
    torch.testing.assert_close(found["token_embeddings"][mask], expected["token_embeddings"][mask], atol=1e-5, rtol=0)
    assert pruned.counts.seen == pruned.counts.kept == int(mask.sum())


@pytest.mark.parametrize("importance", ["idf", "first_layer", "gate"])
@pytest.mark.parametrize("strategy", ["length", "random", "attention", "threshold", "combined"])
def test_sequences_become_shorter_and_batches_do_not_matter(strategy, importance, tiny_encoder):
    options = {"keep_ratio": 0.4, "min_tokens": 3, "strategy": strategy, "importance": importance}
    pruned = PruningTransformer.around(Transformer(tiny_encoder).eval(), options).eval()
    pruned.fit_importance(TEXTS)
    for gate in pruned.children():
        if isinstance(gate, torch.nn.Linear):
            torch.nn.init.normal_(gate.weight, generator=torch.Generator().manual_seed(1))
    together = run(pruned, TEXTS)
    assert together["token_embeddings"].shape[1] == together["attention_mask"].sum(1).max()
    assert together["attention_mask"].sum() < pruned.preprocess(TEXTS)["attention_mask"].sum()
    for row, text in enumerate(TEXTS):
        alone = run(pruned, [text])
        mask = together["attention_mask"][row].bool()
        assert alone["input_ids"][0].tolist() == together["input_ids"][row][mask].tolist()
        states = together["token_embeddings"][row][mask]
        torch.testing.assert_close(alone["token_embeddings"][0], states, atol=1e-5, rtol=0)
        tokens = pruned.tokenizer.convert_ids_to_tokens(alone["input_ids"][0].tolist())
        assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")


def test_survivors_keep_their_positions(tiny_encoder):
    trunk = Transformer(tiny_encoder).eval()
    pruned = PruningTransformer.around(trunk, {"keep_ratio": 0.5, "min_tokens": 2}).eval()
    pruned.fit_importance(["the and in"] * 9 + ["cat"])
    found = run(pruned, TEXTS[:1])
    tokens = pruned.tokenizer.convert_ids_to_tokens(found["input_ids"][0].tolist())
    assert "the" not in tokens
    assert {"cat", "dog", "sea"} <= set(tokens)
    ids = trunk.preprocess(TEXTS[:1])["input_ids"][0].tolist()
    positions = torch.tensor([[ids.index(number) for number in found["input_ids"][0].tolist()]])
    with torch.no_grad():
        expected = trunk.model(input_ids=found["input_ids"], position_ids=positions).last_hidden_state
    torch.testing.assert_close(found["token_embeddings"], expected, atol=1e-5, rtol=0)


def test_a_gate_learns(tiny_encoder):
    pruned = PruningTransformer.around(Transformer(tiny_encoder), {"importance": "gate", "min_tokens": 3})
    pruned(pruned.preprocess(TEXTS), task="document")["token_embeddings"].square().sum().backward()
    assert pruned.gate.weight.grad.abs().max() > 0


@pytest.mark.parametrize("importance", ["idf", "gate"])
def test_saved_and_loaded(importance, tiny_encoder, tmp_path):
    pruned = PruningTransformer.around(Transformer(tiny_encoder), {"importance": importance, "min_tokens": 2}).eval()
    pruned.fit_importance(TEXTS)
    if importance == "gate":
        torch.nn.init.normal_(pruned.gate.weight, std=5.0, generator=torch.Generator().manual_seed(1))
    pruned.save(str(tmp_path))
    loaded = PruningTransformer.load(str(tmp_path)).eval()
    assert loaded.pruning == pruned.pruning
    assert torch.equal(run(loaded, TEXTS)["token_embeddings"], run(pruned, TEXTS)["token_embeddings"])
    (tmp_path / "token_pruning.safetensors").unlink()
    with pytest.raises(ModelError, match="missing"):
        PruningTransformer.load(str(tmp_path))


def test_refused(tiny_encoder):
    trunk = Transformer(tiny_encoder)
    with pytest.raises(ConfigError, match="keep_ratio"):
        PruningTransformer.around(trunk, {"keep_ratio": 0})
    with pytest.raises(ModelError, match="fit_importance"):
        run(PruningTransformer.around(trunk, {}), TEXTS)


@pytest.mark.parametrize("importance", ["idf", "first_layer", "gate"])
def test_threads_do_not_disturb_each_other(importance, tiny_encoder):
    options = {"keep_ratio": 0.4, "min_tokens": 3, "importance": importance}
    pruned = PruningTransformer.around(Transformer(tiny_encoder).eval(), options).eval()
    pruned.fit_importance(TEXTS)
    if importance == "gate":
        torch.nn.init.normal_(pruned.gate.weight, generator=torch.Generator().manual_seed(1))
    texts = [["the cat and the dog " * (1 + number % 6)] * (1 + number % 4) for number in range(48)]

    def encode(number: int) -> dict[str, torch.Tensor]:
        with torch.no_grad():  # every fifth is a query, which is not pruned
            return pruned(pruned.preprocess(texts[number]), task="document" if number % 5 else "query")

    expected = [encode(number) for number in range(len(texts))]
    before = pruned.counts.kept
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(encode, range(len(texts))), expected, strict=True):
            torch.testing.assert_close(found["token_embeddings"], alone["token_embeddings"], atol=1e-5, rtol=0)
            assert found.keys() == alone.keys()
            if "token_importance" in alone:
                assert torch.equal(found["token_importance"], alone["token_importance"])
    assert pruned.counts.kept == 2 * before


@pytest.mark.parametrize("attend", [True, False])
@pytest.mark.parametrize(("strategy", "importance"), [("length", "idf"), *product(["attention"], IMPORTANCES)])
def test_which_texts_are_pruned(strategy, importance, attend, tiny_encoder):
    """The task reaches the module in a whole model, too, and tokens of query expansion are never pruned."""
    text = "what is the name of the song " * 4  # 28 words, [CLS] and [SEP]; a query has 10 tokens of expansion
    pruning = {"strategy": strategy, "importance": importance, "min_tokens": 2, "keep_ratio": 0.5}
    for tasks in (["document"], ["query"], ["query", "document"]):
        late = {"dimension": 8, "query_expansion": {"length": 40, "attend": attend}}
        late["pruning"] = {**pruning, "tasks": tasks}
        model = build(ModelConfig(trunk=tiny_encoder, family="late", late=late), device="cpu")
        model.model[0].fit_importance(TEXTS)
        vectors, mask = model.compile([text, "sea"]).token_vectors()
        assert torch.isfinite(vectors).all()
        text_tokens = mask.bool().sum(1) - torch.tensor([10, 37])
        assert text_tokens[1] in (2, 3)
        assert (text_tokens[0] in range(15, 18)) if "query" in tasks else (text_tokens[0] == 30)
        length = model.encode_documents([text, "sea"], dtype="float32").lengths[0]
        assert (length in range(15, 18)) if "document" in tasks else (length == 30)
        theirs = model.model.encode_query([text], show_progress_bar=False)[0]
        torch.testing.assert_close(theirs, vectors[0][mask[0].bool()], atol=1e-5, rtol=0)


def test_modules_declare_the_task_that_they_read():
    """Of a module's arguments sentence-transformers passes only those in `forward_kwargs`."""
    modules = [module for name in FAMILIES for module in FAMILIES[name].modules]
    assert PruningTransformer in modules
    for module in modules:
        if "task" in inspect.signature(module.forward).parameters:
            assert "task" in module.forward_kwargs, module


@pytest.fixture(scope="module", params=["ModernBert", "Qwen3"])
def other_trunk(request, tmp_path_factory):
    """A random encoder or decoder of 3 layers with rotary positions, and a tokenizer of words."""
    folder = str(tmp_path_factory.mktemp(request.param))
    words = sorted({word for text in TEXTS for word in text.split()})
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    vocabulary = {word: number for number, word in enumerate([*special.values(), *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    own = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "vocab_size": len(vocabulary)}
    if request.param == "Qwen3":
        sizes |= {"num_key_value_heads": 2, "head_dim": 16}
    else:
        own |= {"cls_token_id": 2, "sep_token_id": 3, "local_attention": 128}
    torch.manual_seed(0)
    # Large weights, so that attention is uneven, and positions and masks make a difference.
    made = getattr(transformers, f"{request.param}Config")
    config = made(max_position_embeddings=64, initializer_range=0.3, **sizes, **own)
    getattr(transformers, f"{request.param}Model")(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_other_trunks_that_keep_everything_are_unchanged(importance, other_trunk):
    trunk = Transformer(other_trunk).eval()
    pruned = PruningTransformer.around(trunk, {"keep_ratio": 1.0, "importance": importance}).eval()
    pruned.fit_importance(TEXTS)
    if importance == "gate":
        torch.nn.init.constant_(pruned.gate.bias, 50)
    found, expected = run(pruned, TEXTS), run(trunk, TEXTS)
    mask = expected["attention_mask"].bool()
    torch.testing.assert_close(found["token_embeddings"][mask], expected["token_embeddings"][mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_other_trunks_become_shorter_and_batches_do_not_matter(importance, other_trunk):
    options = {"keep_ratio": 0.4, "min_tokens": 3, "importance": importance}
    pruned = PruningTransformer.around(Transformer(other_trunk).eval(), options).eval()
    pruned.fit_importance(TEXTS)
    if importance == "gate":
        torch.nn.init.normal_(pruned.gate.weight, generator=torch.Generator().manual_seed(1))
    together = run(pruned, TEXTS)
    assert together["token_embeddings"].shape[1] == together["attention_mask"].sum(1).max()
    assert together["attention_mask"].sum() < pruned.preprocess(TEXTS)["attention_mask"].sum()
    for row, text in enumerate(TEXTS):
        alone, mask = run(pruned, [text]), together["attention_mask"][row].bool()
        assert alone["input_ids"][0].tolist() == together["input_ids"][row][mask].tolist()
        states = together["token_embeddings"][row][mask]
        torch.testing.assert_close(alone["token_embeddings"][0], states, atol=1e-5, rtol=0)


def test_survivors_in_other_trunks_keep_their_positions(other_trunk):
    trunk = Transformer(other_trunk).eval()
    pruned = PruningTransformer.around(trunk, {"keep_ratio": 0.5, "min_tokens": 2}).eval()
    pruned.fit_importance(["the and in"] * 9 + ["cat"])
    found = run(pruned, TEXTS[:1])
    ids, kept = trunk.preprocess(TEXTS[:1])["input_ids"][0].tolist(), found["input_ids"][0].tolist()
    assert len(kept) < len(ids)
    positions = torch.tensor([[ids.index(number) for number in kept]])
    with torch.no_grad():
        expected, dense = (
            # Without a mask, transformers would take gaps between positions for borders of texts.
            trunk.model(
                input_ids=found["input_ids"], attention_mask=found["attention_mask"], position_ids=given
            ).last_hidden_state
            for given in (positions, torch.arange(len(kept))[None])
        )
    torch.testing.assert_close(found["token_embeddings"], expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found["token_embeddings"], dense, atol=1e-4)


@pytest.mark.parametrize("number", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_half_precision(importance, number, tiny_encoder, other_trunk):
    # The first layer's mask was float32, and bfloat16 is chosen only where the processor computes in it.
    for place in (tiny_encoder, other_trunk):
        trunk = Transformer(place).eval().to(number)
        pruned = PruningTransformer.around(trunk, {"keep_ratio": 1.0, "importance": importance}).eval()
        pruned.fit_importance(TEXTS)
        if importance == "gate":
            torch.nn.init.constant_(pruned.gate.bias, 50)
            pruned.gate.to(number)
        found, expected = run(pruned, TEXTS), run(trunk, TEXTS)
        mask = expected["attention_mask"].bool()
        assert found["token_embeddings"].dtype == expected["token_embeddings"].dtype == number
        torch.testing.assert_close(
            found["token_embeddings"][mask], expected["token_embeddings"][mask], atol=0.1, rtol=0.1
        )


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_training_in_mixed_precision(importance, tiny_encoder):
    options = {"keep_ratio": 0.4, "min_tokens": 3, "importance": importance}
    pruned = PruningTransformer.around(Transformer(tiny_encoder), options).train()
    pruned.fit_importance(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        states = pruned(pruned.preprocess(TEXTS), task="document")["token_embeddings"]
    states.float().square().sum().backward()
    first = next(iter(pruned.model.parameters()))
    assert torch.isfinite(first.grad).all()
    assert first.grad.abs().max() > 0


def test_activations_that_are_recomputed_choose_no_tokens(tiny_encoder):
    pruned = PruningTransformer.around(
        Transformer(tiny_encoder), {"importance": "first_layer", "min_tokens": 3}
    ).train()
    recompute_activations(pruned.model)
    with pytest.raises(ModelError, match="switch checkpointing off"):
        pruned(pruned.preprocess(TEXTS), task="document")
    run(pruned.eval(), TEXTS)
