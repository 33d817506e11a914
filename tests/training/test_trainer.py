"""The trainer: gradients, freezing, and what a step costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperseek import HyperseekError
from hyperseek.models import Retriever, load
from hyperseek.runs.loop import Clock, learning_rate_factor
from hyperseek.runs.recipe import OutputConfig
from hyperseek.training import LossesConfig
from hyperseek.training._cache import SideFeatures
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._recipe import TrainConfig
from hyperseek.training._routes import choose_trainable, merge_adapters, trained_parts
from hyperseek.training._trainer import RetrieverTrainer, TrainedStack, TrainingModule, training_arguments
from hyperseek.training._training_set import Collator, TrainingSet
from hyperseek.training.losses import Objective

MakeRetriever = Callable[..., Retriever]
LOSSES = {"contrastive": {"temperature": 0.1}, "margin_mse": {}}


def train_config(**values: Any) -> TrainConfig:
    return TrainConfig.from_mapping({"max_steps": 2, "batch_size": 8, "trunk": "full", "device": "cpu", **values})


def make_module(retriever: Retriever, config: TrainConfig, losses: dict[str, Any] = LOSSES) -> TrainingModule:
    choose_trainable(retriever, config)
    stack = TrainedStack(retriever, {"query": 0, "document": 0}, mini_batch=config.mini_batch)
    return TrainingModule(stack, Objective(LossesConfig.from_mapping(losses)))


def make_collator(retriever: Retriever, toy_set: TrainingSet) -> Collator:
    return Collator(toy_set, SideFeatures(retriever, "query"), SideFeatures(retriever, "document"))


def make_trainer(retriever: Retriever, toy_set: TrainingSet, folder: Path, **values: Any) -> RetrieverTrainer:
    config = train_config(save_every=None, **values)
    batches = EpochBatches(toy_set, config.batch_size, seed=config.seed)
    return RetrieverTrainer(
        make_module(retriever, config),
        training_arguments(config, OutputConfig(report_to=()), folder, batches=len(batches), device=retriever.device),
        training_set=toy_set,
        batches=batches,
        collator=make_collator(retriever, toy_set),
        config=config,
        clock=Clock(),
    )


def gradients(module: TrainingModule) -> dict[str, torch.Tensor]:
    # The hyper-head leaves key biases out where it can, since they have no effect.
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("family", [{}, {"qnet": {"depth": 2, "converter_kwargs": {"do_dropout": True}}}])
def test_gradients_in_small_parts_are_those_of_the_whole_batch(
    make_retriever: MakeRetriever, toy_set: TrainingSet, family: dict[str, Any]
) -> None:
    def computed(mini_batch: int | None) -> dict[str, torch.Tensor]:
        retriever = make_retriever(**family)
        for module in retriever.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        module = make_module(retriever, train_config(mini_batch=mini_batch))
        batch = make_collator(retriever, toy_set)([toy_set[0, position] for position in range(8)])
        module.train()
        torch.manual_seed(0)
        total, _ = module.loss(module.model, batch)
        total.backward()
        return gradients(module)

    whole, parts = computed(None), computed(3)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=2e-5)


def test_dropout_is_drawn_once_for_both_passes(make_retriever: MakeRetriever, toy_set: TrainingSet) -> None:
    retriever = make_retriever()
    module = make_module(retriever, train_config(mini_batch=3))
    batch = make_collator(retriever, toy_set)([toy_set[0, position] for position in range(8)])
    module.train()
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        module.zero_grad()
        total, _ = module.loss(module.model, batch)
        torch.manual_seed(99)  # what comes between the passes must not matter
        total.backward()
        found.append(gradients(module))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(
    ("values", "trained"),
    [
        ({"trunk": "frozen"}, ["head"]),
        ({"trunk": "last_layers", "last_layers": 1}, ["layer.1.", "head"]),
        ({"trunk": "lora", "lora": {"rank": 2}}, ["lora_", "head"]),
        (
            {"trunk": "lora", "lora": {"rank": 2, "full_layers": 1}},
            ["layer.0.attention.self.query.lora_", "lora_", "layer.1.", "head"],
        ),
        ({"trunk": "last_layers", "gradient_checkpointing": True}, ["layer.1.", "head"]),
        ({"trunk": "full"}, [""]),
    ],
)
def test_training_changes_what_it_should_and_lowers_the_loss(
    make_retriever: MakeRetriever, toy_set: TrainingSet, tmp_path: Path, values: dict[str, Any], trained: list[str]
) -> None:
    retriever = make_retriever()
    trainer = make_trainer(retriever, toy_set, tmp_path, **values, max_steps=8, log_every=1, learning_rate=1e-3)
    batch = trainer.data_collator([toy_set[0, position] for position in range(16)])
    first = trainer.module.loss(trainer.module.model.eval(), batch)[0].item()
    before = {name: p.detach().clone() for name, p in trainer.module.named_parameters()}
    trainer.run()
    changed = {name for name, p in trainer.module.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all(any(part in name for part in trained) for name in changed)
    assert all(any(part in name for name in changed) for part in trained)
    assert trainer.module.loss(trainer.module.model.eval(), batch)[0].item() < first
    assert {"contrastive", "margin_mse"} <= trainer.state.log_history[0].keys()


def test_adapters_are_merged_into_an_ordinary_model(
    make_retriever: MakeRetriever, toy_set: TrainingSet, tmp_path: Path
) -> None:
    retriever = make_retriever(family="dense")
    names = set(retriever.model.state_dict())
    trainer = make_trainer(retriever, toy_set, tmp_path / "run", trunk="lora", max_steps=3, learning_rate=1e-2)
    trainer.run()
    retriever.model.eval()
    texts = ["cat dog", "the sea and the moon"]
    adapted = retriever.encode_documents(texts, dtype="float32").vectors
    merge_adapters(retriever)
    assert set(retriever.model.state_dict()) == names
    torch.testing.assert_close(retriever.encode_documents(texts, dtype="float32").vectors, adapted, rtol=0, atol=1e-5)
    retriever.save(tmp_path / "model")
    again = load(tmp_path / "model", device="cpu").encode_documents(texts, dtype="float32").vectors
    torch.testing.assert_close(again, adapted, rtol=0, atol=1e-5)


def test_frozen_modules_stay_in_evaluation_mode(make_retriever: MakeRetriever) -> None:
    retriever = make_retriever()
    module = make_module(retriever, train_config(trunk="frozen"))
    module.train()
    modes = {type(part).__name__: part.training for part in retriever.route("query")}
    assert modes == {"Transformer": False, "Pooling": False, "Normalize": False, "QNetHead": True}


def test_nothing_to_train_is_an_error(make_retriever: MakeRetriever) -> None:
    with pytest.raises(HyperseekError, match="nothing would be trained"):
        choose_trainable(make_retriever(family="dense"), train_config(trunk="frozen"))
    with pytest.raises(HyperseekError, match="has 2 layers"):
        choose_trainable(make_retriever(), train_config(trunk="last_layers", last_layers=3))
    with pytest.raises(HyperseekError, match=r"no part 'q_proj'; its linear maps are dense, key, query, value"):
        choose_trainable(make_retriever(), train_config(trunk="lora", lora={"target_modules": ["q_proj"]}))


def test_adapters_and_whole_layers_train_side_by_side(make_retriever: MakeRetriever) -> None:
    """The base under adapters is frozen, they are not; layers in full have none; adapters start alike by seed."""
    starts = []
    for drawn in range(2):
        torch.randn(drawn + 1)  # whatever was drawn before
        retriever = make_retriever()
        choose_trainable(retriever, train_config(trunk="lora", lora={"rank": 2, "full_layers": 1}, seed=5))
        trained = {name: p for name, p in retriever.model.named_parameters() if p.requires_grad and ".layer." in name}
        assert {name.partition(".layer.")[2][0] for name in trained if ".lora_" in name} == {"0"}
        assert {name.partition(".layer.")[2][0] for name in trained if ".lora_" not in name} == {"1"}
        starts.append({name: p.detach() for name, p in trained.items()})
    assert starts[0].keys() == starts[1].keys()
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


def test_the_table_of_what_is_trained(make_retriever: MakeRetriever) -> None:
    retriever = make_retriever()
    choose_trainable(retriever, train_config(trunk="lora", lora={"rank": 2, "full_layers": 1}))
    objective = Objective(LossesConfig.from_mapping({"contrastive": {"learned_temperature": True}}))
    parts = {part.name: (part.parameters, part.trained) for part in trained_parts(retriever, objective)}
    assert list(parts) == [
        "trunk: adapters",
        "trunk: token embeddings",
        "trunk: layer 0",
        "trunk: layer 1",
        "trunk: the rest",
        "QNetHead",
        "losses",
    ]
    assert parts["losses"] == (1, 1)
    assert parts["trunk: token embeddings"][1] == parts["trunk: layer 0"][1] == parts["trunk: the rest"][1] == 0
    assert parts["trunk: layer 1"][0] == parts["trunk: layer 1"][1] == parts["trunk: layer 0"][0]
    assert sum(count for count, _ in parts.values()) == 1 + sum(p.numel() for p in retriever.model.parameters())


def test_recomputed_layers_change_no_gradient(
    make_retriever: MakeRetriever, toy_set: TrainingSet, tmp_path: Path
) -> None:
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        retriever = make_retriever()
        trainer = make_trainer(
            retriever, toy_set, tmp_path / str(recompute), trunk="full", mini_batch=5, gradient_checkpointing=recompute
        )
        module = trainer.module.train()
        torch.manual_seed(1)  # of dropout
        module.loss(module.model, trainer.data_collator([toy_set[0, position] for position in range(16)]))[0].backward()
        found.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


class _InOrder(EpochBatches):
    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, 32, self.batch_size):
            yield [(0, position) for position in range(start, start + self.batch_size)]


def test_accumulated_small_batches_count_equally(
    make_retriever: MakeRetriever, toy_set: TrainingSet, tmp_path: Path
) -> None:
    """Own-item losses of one batch of 8 and of two accumulated batches of 4 are the same mean."""

    def head_after_one_step(batch_size: int, accumulation: int) -> torch.Tensor:
        retriever = make_retriever()
        config = train_config(
            trunk="frozen", batch_size=batch_size, gradient_accumulation=accumulation, max_steps=1, save_every=None
        )
        batches = _InOrder(toy_set, batch_size)
        trainer = RetrieverTrainer(
            make_module(retriever, config, {"margin_mse": {}}),
            training_arguments(
                config, OutputConfig(report_to=()), tmp_path, batches=len(batches), device=retriever.device
            ),
            training_set=toy_set,
            batches=batches,
            collator=make_collator(retriever, toy_set),
            config=config,
            clock=Clock(),
        )
        order = [[(0, position) for position in range(8)]]
        halves = [order[0][:4], order[0][4:]]
        batches.__class__ = type(
            "Fixed", (EpochBatches,), {"__iter__": lambda _: iter(order if accumulation == 1 else halves)}
        )
        trainer.run()
        return torch.cat([p.detach().flatten() for p in retriever.route("query")[-1].parameters()])

    torch.testing.assert_close(head_after_one_step(8, 1), head_after_one_step(4, 2), rtol=1e-4, atol=1e-6)


def test_a_time_limit_stops_training(make_retriever: MakeRetriever, toy_set: TrainingSet, tmp_path: Path) -> None:
    trainer = make_trainer(make_retriever(), toy_set, tmp_path, max_steps=None, max_seconds=0.3, trunk="frozen")
    state = trainer.run()
    assert state.global_step >= 1
    assert 0.3 <= trainer.clock.seconds < 5


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_the_clock_leaves_pauses_out_and_goes_on_from_a_reading(clock: Any) -> None:
    watch = Clock(clock)
    watch.set(10.0)
    with watch.paused():
        assert watch.seconds == 10.0
    watch.start()
    sum(range(100_000))
    with watch.paused():
        reading = watch.seconds
        sum(range(100_000))
        assert watch.seconds == reading > 10.0
    watch.stop()
    assert watch.seconds == watch.seconds >= reading


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"schedule": "constant", "warmup": 0}, [1, 1, 1, 1, 1]),
        ({"schedule": "constant", "warmup": 4}, [0.25, 1, 1, 1, 1]),
        ({"schedule": "linear", "warmup": 0}, [1, 0.75, 0.5, 0.25, 0]),
        ({"schedule": "linear", "warmup": 0.5}, [0.01, 0.5, 1, 0.5, 0]),
        ({"schedule": "cosine", "warmup": 0}, [1, 0.853553, 0.5, 0.146447, 0]),
    ],
)
def test_schedules(values: dict[str, Any], wanted: list[float]) -> None:
    config = train_config(**values)
    found = [learning_rate_factor(config, step=step, progress=step / 40) for step in (0, 10, 20, 30, 40)]
    assert found == pytest.approx(wanted, abs=1e-6)


def test_an_optimiser_of_8_bits_needs_a_gpu_and_its_package(tmp_path: Path) -> None:
    config = train_config(optimizer="adamw_8bit")
    with pytest.raises(HyperseekError, match="adamw_8bit needs a GPU, and the device is cpu"):
        training_arguments(config, OutputConfig(report_to=()), tmp_path, batches=4, device=torch.device("cpu"))
