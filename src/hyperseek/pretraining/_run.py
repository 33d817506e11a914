"""A pre-training run, from recipe to an encoder that contrastive training starts from.

DeepSpeed (0.19) cannot send 0-dim parameters from one process to another. While it trains, each is stored with shape
`(1,)` behind a parametrisation; names and shapes are restored on saving.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from hyperseek._files import read_json
from hyperseek._folders import cache_folder
from hyperseek.errors import ConfigError, require
from hyperseek.models import load
from hyperseek.pretraining._masked_lm import MaskedTrainer, Validate, build_masked_lm, save_encoder
from hyperseek.pretraining._recipe import PretrainConfig, PretrainRecipe
from hyperseek.pretraining._texts import get_tokenizer, open_texts
from hyperseek.pretraining._token_rows import MaskedRows, Masker, RowBatches, TokenCache, token_cache
from hyperseek.runs.loop import Clock, resumable_run, run_with_progress, timed
from hyperseek.runs.recipe import (
    board,
    device_of_process,
    is_distributed,
    is_first_process,
    loop_arguments,
    one_gpu_a_process,
    prepare_process,
    process_count,
    recompute_activations,
)
from hyperseek.runs.record import RunRecord

# Parts of the names that torch gives a parametrised parameter.
_INSIDE, _BEHIND = "parametrizations.", ".original"

logger = logging.getLogger(__name__)


def pretrain(recipe: PretrainRecipe, *, output: str | os.PathLike[str] | None = None, resume: bool = True) -> RunRecord:
    """Train an encoder to predict masked tokens as a recipe describes, and save it.

    The output folder is an encoder for `hyperseek.load` and for `model.trunk` of a training recipe; beside it are the
    full model with its head (`mlm`), `run.json`, checkpoints and logs. A killed run resumes from its last
    checkpoint and ends with the same weights; a finished one is not repeated.

    Args:
        recipe: The recipe.
        output: Output folder; None takes `recipe.output.folder`.
        resume: Whether to resume an earlier run in that folder; it is deleted otherwise.

    Returns:
        The record of the run, as written to `run.json`.

    Raises:
        ConfigError: The recipe cannot be carried out, or the folder holds a run of another recipe.
        DataError: A source cannot be read.
        MissingExtraError: An optional package that the recipe needs is not installed.
        ModelError: A model or tokenizer cannot be loaded.
    """
    return resumable_run(
        recipe,
        output or recipe.output.folder,
        lambda folder, earlier: _Run(recipe, folder).carry_out(earlier),
        resume=resume,
    )


@dataclass(slots=True)
class _Run:
    """One run; `carry_out` calls the other methods, its steps, in order."""

    recipe: PretrainRecipe
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def carry_out(self, earlier: RunRecord | None) -> RunRecord:
        recipe, config = self.recipe, self.recipe.train
        deepspeed = check_deepspeed(config)
        prepare_process(config)
        tokenizer, cache, sources = self._read()
        device = torch.device(device_of_process(config.device) or ("cuda" if torch.cuda.is_available() else "cpu"))
        batches = RowBatches(len(cache.train), config.batch_size, processes=process_count(), seed=config.seed)
        # Before the arguments: after them, under DeepSpeed, transformers shards every new model over the processes.
        model = build_masked_lm(recipe.model, tokenizer, length=recipe.data.sequence_length)
        if config.gradient_checkpointing:
            recompute_activations(model)
        if deepspeed is not None:
            keep_scalars_as_vectors(model)
        arguments = self._arguments(len(batches), device, deepspeed)
        record = RunRecord.begun(
            recipe,
            seed=config.seed,
            device=device,
            texts=sources,
            data_fingerprint=cache.fingerprint,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )
        if earlier is not None and earlier.data_fingerprint != cache.fingerprint:
            raise ConfigError(
                f"the texts or the tokenizer have changed since the run in {self.folder} began; "
                f"choose another --output, or pass --no-resume to replace it"
            )
        if is_first_process():
            record.write(self.folder)
        trainer = self._trainer(model, tokenizer, cache, batches, arguments)
        steps = run_with_progress(trainer, "pre-training")
        self.seconds["training"] = trainer.clock.seconds
        state = with_scalars(trainer.full_state())
        if trainer.is_world_process_zero():
            fingerprint = self._save(trainer, tokenizer, state)
            record = record.finished(
                self.seconds,
                steps=steps,
                metric="loss" if trainer.validate is not None else None,
                validation=() if trainer.validate is None else tuple(trainer.validate.history),
                best_step=steps,
                document_fingerprint={"after": fingerprint},
            )
            record.write(self.folder)
        trainer.accelerator.wait_for_everyone()
        return record

    def _read(self) -> tuple[PreTrainedTokenizerBase, TokenCache, dict[str, str]]:
        data, length = self.recipe.data, self.recipe.data.sequence_length
        folder = cache_folder(self.recipe.train.cache)
        with timed(self.seconds, "reading"):
            sources = [open_texts(name, source) for name, source in data.sources.items()]
            tokenizer = get_tokenizer(self.recipe.model, sources, cache=folder, length=length)
            cache = token_cache(
                sources, tokenizer, length=length, validation_share=data.validation_share, folder=folder
            )
        _check_alike(cache)
        logger.info(
            "%d texts, %s tokens, sequences of %d: %d for training, %d for validation",
            cache.info.texts,
            cache.info.tokens,
            length,
            len(cache.train),
            len(cache.validation),
        )
        return tokenizer, cache, {source.name: source.fingerprint for source in sources}

    def _arguments(self, batches: int, device: torch.device, deepspeed: str | None) -> TrainingArguments:
        config = self.recipe.train
        values = loop_arguments(config, self.recipe.output, self.folder, batches=batches, device=device)
        values |= {
            "adam_beta1": config.adam_betas[0],
            "adam_beta2": config.adam_betas[1],
            "adam_epsilon": config.adam_epsilon,
            "deepspeed": deepspeed,
        }
        return one_gpu_a_process(TrainingArguments(**values))

    def _trainer(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        cache: TokenCache,
        batches: RowBatches,
        arguments: TrainingArguments,
    ) -> MaskedTrainer:
        config = self.recipe.train
        masker = Masker(tokenizer, self.recipe.masking, seed=config.seed)
        clock = Clock(config.clock)
        validate = None
        if len(cache.validation):
            validate = Validate(
                MaskedRows(cache.validation, masker),
                self.recipe.validation,
                clock,
                batch_size=config.batch_size,
                seed=config.seed,
            )
        return MaskedTrainer(
            model,
            arguments,
            rows=MaskedRows(cache.train, masker),
            batches=batches,
            config=config,
            clock=clock,
            validate=validate,
            callbacks=board(self.recipe.output, self.folder),
        )

    def _save(self, trainer: MaskedTrainer, tokenizer: PreTrainedTokenizerBase, state: dict[str, Any]) -> str:
        if trainer.is_deepspeed_enabled:
            # Models loaded from now on are not sharded.
            unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
        with timed(self.seconds, "saving"):
            model = trainer.accelerator.unwrap_model(trainer.model)
            saved = save_encoder(
                model,
                tokenizer,
                self.folder,
                length=self.recipe.data.sequence_length,
                config=self.recipe.model,
                state=state,
            )
            again = load(self.folder, device="cpu")
        assert saved.fingerprint == again.fingerprint, "the saved model loads with different weights"
        return again.fingerprint


def _check_alike(cache: TokenCache) -> None:
    """Raise ConfigError unless all processes read the same sequences; machines may have separate caches."""
    if is_distributed():
        found: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(found, cache.fingerprint)
        if len(set(found)) > 1:
            raise ConfigError(
                "the processes have different texts or tokenizers; put the texts and train.cache in a place that all "
                "machines share, or give a tokenizer made beforehand"
            )


def check_deepspeed(config: PretrainConfig) -> str | None:
    """Return the path of the DeepSpeed configuration, or None without one.

    Args:
        config: Has the path.

    Returns:
        The path, variables filled in.

    Raises:
        ConfigError: The file is missing or is not a JSON object.
        MissingExtraError: DeepSpeed is not installed.
    """
    if config.deepspeed is None:
        return None
    path = Path(os.path.expandvars(config.deepspeed)).expanduser()
    if not path.exists():
        raise ConfigError(f"train.deepspeed: {path}: no such file; give a DeepSpeed configuration")
    values = read_json(path, "a DeepSpeed configuration", error=ConfigError, remedy="correct it, or leave it out")
    if not isinstance(values, dict):
        raise ConfigError(f"train.deepspeed: {path} must hold an object, not a {type(values).__name__}")
    require("deepspeed", extra="deepspeed")
    return str(path)


class _Scalar(nn.Module):
    def forward(self, kept: Tensor) -> Tensor:
        return kept.reshape(())

    def right_inverse(self, scalar: Tensor) -> Tensor:
        return scalar.reshape(1)


def keep_scalars_as_vectors(model: nn.Module) -> None:
    """Store every 0-dim parameter with shape `(1,)`, from which it is read.

    DeepSpeed (0.19) cannot send 0-dim parameters from one process to another.
    """
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                register_parametrization(module, name, _Scalar(), unsafe=True)


def with_scalars(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `keep_scalars_as_vectors` in a state: restore names and shapes."""
    return {
        name.replace(_INSIDE, "").removesuffix(_BEHIND) if _INSIDE in name else name: (
            tensor.reshape(()) if _INSIDE in name else tensor
        )
        for name, tensor in state.items()
    }
