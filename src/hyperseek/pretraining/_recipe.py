"""Recipes of pre-training: what encoder learns to predict masked tokens of what texts, and how."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from hyperseek._config import Config, meaningless
from hyperseek._recipe_files import recipe_values
from hyperseek.errors import ConfigError
from hyperseek.runs.recipe import LoopConfig, OutputConfig, with_default, without_removed

TRAIN_TOKENIZER = "train"


class VocabularyConfig(Config):
    """A vocabulary made from the texts, for `model.tokenizer: train`.

    Attributes:
        kind: `bpe` over bytes, which knows no unknown token; or `wordpiece` as BERT has it, whose trainer breaks ties
            by chance, so that another machine makes a slightly different one of the same texts.
        size: Number of tokens, special ones included.
        texts: How many texts it is made from, at most.
        lowercase: Whether case is forgotten; `wordpiece` only.
    """

    kind: Literal["bpe", "wordpiece"] = "bpe"
    size: int = Field(default=30_000, ge=64)
    texts: int = Field(default=1_000_000, ge=1)
    lowercase: bool = True


class EncoderConfig(Config):
    """The encoder.

    Attributes:
        start: Path or name of a model to start from; None begins with new weights.
        architecture: A new model's type, in the words of transformers: `bert`, `modernbert`, ..., or `hyte_fh`, the
            fully hyperbolic encoder.
        config: The fields of that architecture's configuration that are not to have their defaults; null takes back
            what a base recipe names. The vocabulary's size and special tokens are the tokenizer's.
        tokenizer: Path or name; `train` makes one from the texts. None takes that of `start`.
        vocabulary: For `tokenizer: train` only; None means the defaults.
        pooling: How the saved encoder makes one vector of a text; a `hyte_fh` encoder has its own in `config`.
    """

    start: str | None = None
    architecture: str | None = None
    config: Annotated[dict[str, Any], BeforeValidator(without_removed)] = Field(default_factory=dict)
    tokenizer: str | None = None
    vocabulary: VocabularyConfig | None = None
    pooling: Literal["mean", "cls", "max"] = "mean"

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, values: Any) -> Any:
        return with_default(values, "vocabulary", {}, where=("tokenizer", TRAIN_TOKENIZER))

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if (self.start is None) == (self.architecture is None):
            raise ValueError("give either start (a model to go on from) or architecture (a new one)")
        if self.start is not None and self.config:
            raise ValueError("config describes a new model; with start the model has its own")
        if self.start is None and self.tokenizer is None:
            raise ValueError("a new model needs a tokenizer: a path or name, or 'train' to make one from the texts")
        if self.start is not None and self.tokenizer == TRAIN_TOKENIZER:
            raise ValueError("a trained model's tokens have their meaning; with start no new tokenizer can be made")
        if self.vocabulary is not None and self.tokenizer != TRAIN_TOKENIZER:
            raise meaningless("vocabulary", "with tokenizer: train")
        return self


class TextSourceConfig(Config):
    """Where texts come from.

    Attributes:
        source: A `.jsonl` file, plain text (`.txt`, `.md`, `.rst`), each plain or `.gz`; a folder or a pattern like
            `texts/*.txt` of such files; a collection (a BEIR folder, a `.tsv` corpus, `ir_datasets:ID`, `pydocs`,
            or `NAME:PLACE` of a registered data source);
            `hub:NAME` or `hub:NAME#CONFIGURATION`; `mds:FOLDER` with shards of mosaicml-streaming. Environment
            variables, as `$HYPERSEEK_DATA`, are filled in; one that is not set is an error.
        text_key: Key or column of the text; None finds the usual ones (`text`, `content`, `body`, ...).
        title_key: Key or column of a title that goes before the text; None takes none, except in collections.
        split: Of a Hub dataset.
        revision: Of a Hub dataset: branch, tag or commit.
        divide: What one text is in a plain text file: a `paragraph`, a `line`, or the whole `file`.
        limit: Use only this many texts, the first ones.
        on_error: Stop at a bad record, or `skip` it and count it.
    """

    source: str
    text_key: str | None = None
    title_key: str | None = None
    split: str = "train"
    revision: str | None = None
    divide: Literal["paragraph", "line", "file"] = "paragraph"
    limit: int | None = Field(default=None, ge=1)
    on_error: Literal["raise", "skip"] = "raise"

    def check_read(self, kind: str, *read: str) -> None:
        """Raise ConfigError where a setting is given that a source of this kind does not read.

        Args:
            kind: What the source is, with its article.
            *read: Names of the settings that are read, of those that not all sources read.
        """
        for name in ("text_key", "title_key", "split", "revision", "divide"):
            if name not in read and getattr(self, name) != type(self).model_fields[name].default:
                raise ConfigError(f"the source {self.source!r} is {kind}: {name} means nothing; leave it out")


class TextConfig(Config):
    """What is read, and how it is cut up.

    Attributes:
        sources: Sources by a name of your choice.
        sequence_length: Tokens of a sequence, special ones included; texts are joined and cut to this length.
        validation_share: Share of the texts kept for validation, in [0, 1). Which ones is told by a hash of the text,
            so that a text that appears twice is never on both sides.
    """

    sources: Annotated[dict[str, TextSourceConfig], BeforeValidator(without_removed)] = Field(min_length=1)
    sequence_length: int = Field(default=512, ge=8)
    validation_share: float = Field(default=0.01, ge=0, lt=1)


class MaskingConfig(Config):
    """Which tokens are to be predicted.

    Attributes:
        train: Share of the tokens, in training; drawn anew every epoch.
        validation: Share of the tokens, in validation; always the same ones.
        masked: Of these, the share that the mask token replaces.
        random: Of these, the share that another token replaces; the rest stay as they are.
    """

    train: float = Field(default=0.3, gt=0, lt=1)
    validation: float = Field(default=0.15, gt=0, lt=1)
    masked: float = Field(default=0.8, ge=0, le=1)
    random: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.masked + self.random > 1:
            raise ValueError(f"masked and random are shares of one whole; {self.masked} + {self.random} is more")
        return self


class PretrainConfig(LoopConfig):
    """How pre-training goes: the loop (see `LoopConfig`), AdamW, and what saves memory.

    Attributes:
        adam_betas: Decay of AdamW's two averages.
        adam_epsilon: Of AdamW.
        gradient_checkpointing: Whether activations are computed a second time instead of kept.
        deepspeed: A DeepSpeed configuration file; its `"auto"` values are filled in from here. Start the run with
            `deepspeed` or `torchrun`.
        cache: Folder for tokenised texts and trained tokenizers; None means `$HYPERSEEK_CACHE`, or
            `~/.cache/hyperseek`. Environment variables are filled in.
    """

    adam_betas: tuple[float, float] = (0.9, 0.98)
    adam_epsilon: float = Field(default=1e-6, gt=0)
    gradient_checkpointing: bool = False
    deepspeed: str | None = None
    cache: str | None = None

    @model_validator(mode="after")
    def _check_betas(self) -> Self:
        if any(not 0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas must be in [0, 1), not {self.adam_betas}")
        return self


class PretrainValidationConfig(Config):
    """When the loss of the validation texts is measured; it always is before and after.

    Attributes:
        every: Steps between validations; None for none in between.
        sequences: Most sequences to measure on; None takes all.
        batch_size: Sequences of a batch, for each process; None takes that of training.
    """

    every: int | None = Field(default=None, ge=1)
    sequences: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)


class PretrainRecipe(Config):
    """A complete pre-training run.

    Attributes:
        model: The encoder.
        data: The texts.
        masking: Which tokens are to be predicted.
        train: How.
        validation: When the validation loss is measured.
        output: Where results go.
    """

    model: EncoderConfig
    data: TextConfig
    masking: MaskingConfig = MaskingConfig()
    train: PretrainConfig
    validation: PretrainValidationConfig = PretrainValidationConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _check_validated(self) -> Self:
        if self.validation != PretrainValidationConfig() and not self.data.validation_share:
            raise ValueError("validation says how to validate, and data.validation_share: 0 keeps no text for it")
        return self


def read_pretrain_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Read a recipe file, with its bases, and apply overrides.

    Args:
        path: A YAML file, or the name of a recipe of this project, as in `mlm-tiny-pydocs`.
        overrides: Each `section.field=value`; the value is read as YAML.

    Returns:
        The recipe.

    Raises:
        ConfigError: A file, a base or an override is not valid; the message names the closest known key.
        UnknownNameError: There is neither a file nor a recipe of that name.
    """
    values = recipe_values(path, overrides)
    if "losses" in values:
        raise ConfigError(f"{path} is a recipe of retrieval training; run it with `hyperseek train`")
    return PretrainRecipe.from_mapping(values, source=str(path))
