"""A training run, from recipe to saved model, and interpolation between the start and the trained model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperseek.errors import ConfigError
from hyperseek.models import Retriever, build
from hyperseek.models.modules import Blends, declare_shorter_dimensions
from hyperseek.models.retriever import SIDES, Side
from hyperseek.runs.loop import Clock, resumable_run, run_with_progress, timed
from hyperseek.runs.recipe import (
    board,
    device_of_process,
    is_first_process,
    most_steps,
    prepare_process,
    process_count,
    steps_per_epoch,
)
from hyperseek.runs.record import CHECKPOINTS, RunRecord
from hyperseek.training._cache import FeatureCache, SideFeatures
from hyperseek.training._cards import (
    CardDraws,
    card_head,
    dev_options,
    held_out_sets,
    read_from_caches,
    tasks_of,
)
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._forecast import Forecast, forecast
from hyperseek.training._recipe import CardsConfig, Recipe
from hyperseek.training._routes import (
    TrainedPart,
    base_stop,
    choose_trainable,
    frozen_prefix,
    merge_adapters,
    reads_tokens,
    trained_parts,
)
from hyperseek.training._slices import add_slices, repeats
from hyperseek.training._trainer import RetrieverTrainer, TrainedStack, TrainingModule, training_arguments
from hyperseek.training._training_data import (
    ReadSources,
    Used,
    checked,
    data_fingerprint,
    ended,
    read_dev_set,
    read_sources,
    set_lengths,
    used,
    write_training_data,
)
from hyperseek.training._training_set import Collator
from hyperseek.training._validation import DevSet, KeepBest, Validator
from hyperseek.training.losses import Objective

_BEST = "best.safetensors"

logger = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool = True,
    tell: Callable[[Sequence[TrainedPart]], None] | None = None,
) -> RunRecord:
    """Train a model as a recipe describes, and save it.

    The output folder is a model for `hyperseek.load`; beside the model it holds `run.json`, checkpoints and logs. A
    killed run resumes from its last checkpoint and ends with the same weights; a finished one is not
    repeated.

    Args:
        recipe: The recipe.
        output: Output folder; None takes `recipe.output.folder`.
        resume: Whether to resume an earlier run in that folder; it is deleted otherwise.
        tell: Is told, before the first step, which parts of the model are trained.

    Returns:
        The record of the run, as written to `run.json`.

    Raises:
        ConfigError: The recipe cannot be carried out, or the folder holds a run of another recipe.
        DataError: A source cannot be read.
        ModelError: The trunk cannot be loaded.
    """
    return resumable_run(
        recipe,
        output or recipe.output.folder,
        lambda folder, _: _Run(recipe, folder, tell=tell).carry_out(),
        resume=resume,
    )


def dry_run(recipe: Recipe) -> Forecast:
    """Build the model and read the data of a recipe, and say what training would take, without training.

    Args:
        recipe: What would be done.

    Returns:
        Lengths, steps, what is trained, and memory and time part by part.

    Raises:
        ConfigError: The recipe cannot be carried out.
        DataError: A source cannot be read.
        ModelError: The trunk cannot be loaded.
    """
    config = recipe.train
    ready = _prepared(recipe, {}, encodes=False)
    retriever = ready.retriever
    choose_trainable(retriever, config)
    cached = config.cache.enabled
    starts: dict[Side, int] = {side: frozen_prefix(retriever.route(side)) if cached else 0 for side in SIDES}
    stack = TrainedStack(retriever, starts, mini_batch=config.mini_batch)
    return forecast(
        recipe,
        stack,
        ready.read.training_set,
        ready.objective,
        trained_parts(retriever, ready.objective),
        queries=ready.batches.largest(),
        steps=most_steps(len(ready.batches), config, processes=process_count()),
    )


@dataclass(slots=True)
class _Run:
    """One run; `carry_out` calls the other methods, its steps, in order."""

    recipe: Recipe
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    tell: Callable[[Sequence[TrainedPart]], None] | None = None

    def carry_out(self) -> RunRecord:
        recipe, config = self.recipe, self.recipe.train
        ready = _prepared(recipe, self.seconds)
        retriever, read, training_set, objective = ready.retriever, ready.read, ready.read.training_set, ready.objective
        dev_sets, batches = ready.dev_sets, ready.batches
        uses = checked(read.uses, training_set, batches, objective, extra_documents=recipe.data.extra_documents)
        record = RunRecord.begun(
            recipe,
            seed=config.seed,
            device=retriever.device,
            training_data=write_training_data(self.folder, read.trained),
            sources=uses,
            data_fingerprint=data_fingerprint(training_set),
        )
        if is_first_process():
            record.write(self.folder)
        before = retriever.fingerprint
        with timed(self.seconds, "caching"):
            sides = _sides(retriever, recipe, needs_base=objective.needs_base)
            if config.cache.indexes and sides["document"].cache is None:
                raise ConfigError("train.cache.indexes needs a frozen document route; but documents are trained")
            if (of_documents := sides["document"].cache) is not None:
                of_documents.adopt_indexes(config.cache)
            for side, texts in (("query", training_set.queries), ("document", training_set.documents)):
                sides[side].ensure(texts)  # type: ignore[index]
            validator = self._validator(dev_sets, sides)
            if ready.cards is not None:
                read_from_caches(card_head(retriever), sides, ready.cards.whole())
                card_head(retriever).fit_cards([task.card for task in ready.cards.tasks if not task.stranger])
        trainer = self._trainer(ready, sides, validator)
        start = {name: tensor.clone() for name, tensor in trainer.module.trainable_state().items()}
        if self.tell is not None and is_first_process():
            self.tell(trained_parts(retriever, objective))
        steps = run_with_progress(trainer, "training")
        trainer.accelerator.wait_for_everyone()
        retriever.model.eval()
        best_step = self._load_best(trainer)
        with timed(self.seconds, "interpolation"):
            share, tried = self._interpolate(trainer, start, best_step)
        self.seconds["training"] = trainer.clock.seconds
        if trainer.is_world_process_zero():
            changed = _differs(trainer.module.trainable_state(), start) and share != 0
            if not changed:
                logger.warning("%s: this run changed nothing: %s", self.folder, _reason(steps, best_step))
            self._save(retriever, before)
            seen = self._used(ready, steps)
            trained = {name: entry.restricted(seen) for name, entry in read.trained.items()}
            record = record.finished(
                self.seconds,
                parameters=sum(tensor.numel() for tensor in start.values()),
                steps=steps,
                training_data=write_training_data(self.folder, {n: t for n, t in trained.items() if t.examples}),
                sources=ended(uses, training_set, seen.examples),
                changed=changed,
                metric=recipe.validation.metric if dev_sets else None,
                validation=() if trainer.keeper is None else tuple(trainer.keeper.history),
                best_step=best_step,
                interpolation=tried,
                share=share,
                document_fingerprint={"before": before, "after": retriever.fingerprint},
            )
            record.write(self.folder)
        return record

    def _validator(self, dev_sets: dict[str, Any], sides: dict[Side, SideFeatures]) -> Validator | None:
        if not dev_sets:
            return None
        validator = Validator(
            dev_sets,
            self.recipe.validation.metric,
            sides["query"],
            sides["document"],
            encode_dtype=self.recipe.train.cache.dtype,
        )
        validator.prepare()
        return validator

    def _trainer(
        self, ready: _Prepared, sides: dict[Side, SideFeatures], validator: Validator | None
    ) -> RetrieverTrainer:
        data, config = self.recipe.data, self.recipe.train
        retriever, objective, batches = ready.retriever, ready.objective, ready.batches
        starts: dict[Side, int] = {side: 0 if (cache := sides[side].cache) is None else cache.stop for side in SIDES}
        module = TrainingModule(TrainedStack(retriever, starts, mini_batch=config.mini_batch), objective)
        arguments = training_arguments(
            config, self.recipe.output, self.folder, batches=len(batches), device=retriever.device
        )
        clock = Clock(config.clock)
        keeper = None
        if validator is not None:
            keeper = KeepBest(
                self.recipe.validation, validator, clock, self.folder / CHECKPOINTS / _BEST, module.trainable_state
            )
        return RetrieverTrainer(
            module,
            arguments,
            training_set=ready.read.training_set,
            batches=batches,
            collator=Collator(
                ready.read.training_set,
                *sides.values(),
                extra_documents=data.extra_documents,
                coarse=objective.needs_coarse,
                cards=ready.cards,
            ),
            config=config,
            clock=clock,
            keeper=keeper,
            callbacks=board(self.recipe.output, self.folder),
        )

    def _used(self, ready: _Prepared, steps: int) -> Used:
        config, processes, batches = self.recipe.train, process_count(), ready.batches
        epochs, rest = divmod(steps, steps_per_epoch(len(batches), config, processes=processes))
        more = min(rest * config.gradient_accumulation * processes, len(batches))
        coarse = ready.objective.needs_coarse
        return used(ready.read.training_set, batches, epochs=epochs, more=more, coarse=coarse)

    def _load_best(self, trainer: RetrieverTrainer) -> int | None:
        if trainer.keeper is None:
            return None
        step, state = trainer.keeper.best_state()
        if step not in {entry.step for entry in trainer.keeper.history}:
            logger.warning(
                "the best weights on disk are of step %d, which this run did not reach: keeping the last", step
            )
            return trainer.keeper.history[-1].step
        trainer.module.load_trainable_state(state)
        logger.info("keeping the weights of step %d", step)
        return step

    def _interpolate(
        self, trainer: RetrieverTrainer, start: dict[str, Tensor], best_step: int | None
    ) -> tuple[float | None, dict[str, dict[str, float]]]:
        config, keeper = self.recipe.validation, trainer.keeper
        if keeper is None or not config.interpolate or best_step == 0:
            return None, {}
        drop = config.max_drop
        floor = {} if drop is None else {name: score - drop for name, score in keeper.history[0].scores.items()}
        trained = next(entry.scores for entry in keeper.history if entry.step == best_step)
        return choose_share(
            Interpolation(trainer.module, start), config.interpolate, keeper.validator, trained=trained, floor=floor
        )

    def _save(self, retriever: Retriever, before: str) -> None:
        if self.recipe.train.trunk == "lora":
            merge_adapters(retriever)
        nested = self.recipe.losses.matryoshka
        if nested is not None or retriever.fingerprint != before:  # documents trained otherwise lose what the trunk had
            for side in SIDES:
                declare_shorter_dimensions(retriever.route(side), () if nested is None else nested.dimensions)
        with timed(self.seconds, "saving"):
            retriever.save(self.folder)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a run is made of."""

    retriever: Retriever
    read: ReadSources
    dev_sets: dict[str, DevSet]
    batches: EpochBatches
    objective: Objective
    cards: CardDraws | None = None


def _prepared(recipe: Recipe, seconds: dict[str, float], *, encodes: bool = True) -> _Prepared:
    """Build the model and read the data, noting the time that takes; texts are encoded for slices unless it is told."""
    config = recipe.train
    prepare_process(config)
    with timed(seconds, "reading"):
        retriever = build(recipe.model.seeded(config.seed), device=device_of_process(config.device))
        for dev_set in recipe.validation.sets.values():
            retriever.check_options(dev_set.options)
        read = read_sources(recipe.data, seed=config.seed, holdout=recipe.validation.holdout)
        training_set = read.training_set
        module: Any
        for module in retriever.route("document"):
            if hasattr(module, "fit_importance") and not module.is_fitted:
                module.fit_importance(training_set.documents)
        tasks = tasks_of(recipe, retriever, training_set)
        cards = dict(zip(recipe.data.sources, (task.card for task in tasks), strict=False))
        dev_sets = {
            name: read_dev_set(
                dev_set,
                seed=config.seed,
                options=retriever.check_options(dev_options(dev_set.options, cards.get(name))),
            )
            for name, dev_set in recipe.validation.sets.items()
        }
        most: dict[Side, int | None] = {
            "query": recipe.model.query_length,
            "document": recipe.model.document_length,
        }
        set_lengths(retriever, training_set, recipe.data, most=most)
        dev_sets |= held_out_sets(recipe, retriever, read, cards)
    objective = Objective(recipe.losses)
    draws = None
    if tasks:
        with timed(seconds, "slicing"):
            tasks += add_slices(recipe, retriever, read, tasks, encodes=encodes)
        draws = CardDraws(
            training_set,
            tasks,
            config.cards or CardsConfig(),
            wrong=objective.needs_wrong_card,
            views=objective.needs_views,
            seed=config.seed,
        )
    elif objective.needs_wrong_card or objective.needs_views:
        raise ConfigError("losses.wrong_card and losses.card_contrast are for models with cards, as family: card")
    batches = EpochBatches(
        training_set,
        config.batch_size,
        composition=recipe.data.batches,
        repeat=repeats(training_set, recipe.data),
        length_buckets=recipe.data.length_buckets,
        seed=config.seed,
        processes=process_count(),
    )
    if recipe.losses.xtr is not None and not retriever.space.ragged:
        raise ConfigError("losses.xtr is for models of token vectors; take family: late, or leave it out")
    return _Prepared(retriever, read, dev_sets, batches, objective, draws)


def _differs(state: dict[str, Tensor], start: dict[str, Tensor]) -> bool:
    return any(not tensor.equal(start[name]) for name, tensor in state.items())


def _reason(steps: int, best_step: int | None) -> str:
    if not steps:
        return "no step was taken; raise train.max_steps, epochs or max_seconds"
    if best_step == 0:
        return "no validation beat that of the untrained model, whose weights are kept"
    return "the weights did not change; check train.learning_rate and which parts of the model are trained"


def _sides(retriever: Retriever, recipe: Recipe, *, needs_base: bool) -> dict[Side, SideFeatures]:
    """Freeze modules as the recipe says, and choose the source of each side's features."""
    cache = recipe.train.cache
    # The model before training: before adapters are added, and before any step.
    base: dict[Side, FeatureCache | None] = dict.fromkeys(SIDES)
    if needs_base:
        for side in SIDES:
            modules = retriever.route(side)
            stop = base_stop(modules)
            whole = stop == len(modules)
            base[side] = FeatureCache.of(
                cache, retriever, side, stop, tokens=whole and reads_tokens((), retriever.outputs)
            )
    choose_trainable(retriever, recipe.train)
    sides: dict[Side, SideFeatures] = {}
    for side in SIDES:
        modules, frozen, start = retriever.route(side), None, base[side]
        stop = frozen_prefix(modules)
        if stop and cache.enabled:
            frozen = FeatureCache.of(
                cache, retriever, side, stop, tokens=reads_tokens(modules[stop:], retriever.outputs)
            )
            # A frozen prefix that reaches as far as the base holds its vectors too.
            start = frozen if start is not None and start.stop == stop else start
        sides[side] = SideFeatures(retriever, side, frozen, start)
    return sides


class Interpolation:
    """Moves a trained model towards its start and back.

    Modules that can blend themselves do so, adapters are scaled, and every other trained parameter is interpolated
    linearly. "Robust fine-tuning of zero-shot models" (arXiv 2109.01903) averages weights; if a
    model's score is the base similarity plus a learned term, as for warm-started q-nets, the learned term itself is
    scaled.

    Args:
        module: The trained model.
        start: The trained parameters before training.
    """

    def __init__(self, module: TrainingModule, start: Mapping[str, Tensor]) -> None:
        model = module.model
        blending = [(module, module.blending()) for module in model.modules() if isinstance(module, Blends)]
        self._blends = [blend for _, blend in blending if blend is not None]
        self._adapters: list[tuple[Any, str, float]] = [
            (layer, name, scaling)
            for layer in model.modules()
            if isinstance(getattr(layer, "scaling", None), dict)
            for name, scaling in layer.scaling.items()  # type: ignore[operator, union-attr]
        ]
        scaled = {id(weight) for module, blend in blending if blend is not None for weight in module.parameters()}
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._parameters = [
            (parameter, start[f"model.{name}"].to(parameter.device), parameter.detach().clone())
            for name, parameter in trained.items()
            if id(parameter) not in scaled and ".lora_" not in name
        ]

    @torch.no_grad()
    def set(self, share: float) -> None:
        """Move to a share of the training.

        Args:
            share: 0 is the start, 1 the trained model.
        """
        for blend in self._blends:
            blend(share)
        for layer, name, scaling in self._adapters:
            layer.scaling[name] = scaling * share
        for parameter, start, end in self._parameters:
            parameter.copy_(end if share == 1 else torch.lerp(start, end, share))


def choose_share(
    interpolation: Interpolation,
    shares: Sequence[float],
    validator: Validator,
    *,
    trained: Mapping[str, float],
    floor: Mapping[str, float],
) -> tuple[float, dict[str, dict[str, float]]]:
    """Choose the share with the highest mean over the dev sets, and move the model there.

    Args:
        interpolation: Moves the trained model.
        shares: Shares to try in addition to the trained model itself.
        validator: Measures the model.
        trained: Scores of the trained model.
        floor: Lowest score for each dev set; shares below it are chosen only if no other is left.

    Returns:
        The share, and the scores of all of them.
    """
    results = {1.0: dict(trained)}
    for share in sorted({*shares} - {1.0}, reverse=True):
        interpolation.set(share)
        results[share] = validator()
    safe = [share for share, scores in results.items() if all(scores[name] >= low for name, low in floor.items())]
    chosen = max(safe or results, key=lambda share: results[share]["mean"])
    interpolation.set(chosen)
    return chosen, {str(share): scores for share, scores in results.items()}
