"""Recipes of pre-training: an encoder that learns to predict masked tokens, its texts, and the training."""

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
        kind: `bpe` over bytes, which has no unknown tokens; or `wordpiece` as in BERT, whose trainer breaks ties
            at random, so that another machine makes a slightly different vocabulary from the same texts.
        size: Number of tokens, special ones included.
        texts: Most texts it is made from.
        lowercase: Whether to lower-case texts; `wordpiece` only.
    """

    kind: Literal["bpe", "wordpiece"] = "bpe"
    size: int = Field(default=30_000, ge=64)
    texts: int = Field(default=1_000_000, ge=1)
    lowercase: bool = True


class EncoderConfig(Config):
    """The encoder.

    Attributes:
        start: Path or name of a model to start from; None starts with new weights.
        architecture: A new model's type, as transformers names it: `bert`, `modernbert`, ..., or `hyte_fh`, the
            fully hyperbolic encoder.
        config: Non-default fields of that architecture's configuration; null removes a base recipe's
            value. The vocabulary size and special tokens are the tokenizer's.
        tokenizer: Path or name; `train` makes one from the texts. None takes that of `start`.
        vocabulary: For `tokenizer: train` only; None means the defaults.
        pooling: How the saved encoder pools a text into one vector; a `hyte_fh` encoder sets its own in `config`.
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
            raise ValueError("give either start (a model to continue from) or architecture (a new one)")
        if self.start is not None and self.config:
            raise ValueError("config describes a new model; a model given by start has its own")
        if self.start is None and self.tokenizer is None:
            raise ValueError("a new model needs a tokenizer: a path or name, or 'train' to make one from the texts")
        if self.start is not None and self.tokenizer == TRAIN_TOKENIZER:
            raise ValueError("a trained model's tokenizer cannot be replaced; with start, leave tokenizer: train out")
        if self.vocabulary is not None and self.tokenizer != TRAIN_TOKENIZER:
            raise meaningless("vocabulary", "with tokenizer: train")
        return self


class TextSourceConfig(Config):
    """A source of texts.

    Attributes:
        source: A `.jsonl` file, plain text (`.txt`, `.md`, `.rst`), each plain or `.gz`; a folder or a pattern like
            `texts/*.txt` of such files; a collection (a BEIR folder, a `.tsv` corpus, `ir_datasets:ID`, `pydocs`,
            or `NAME:PLACE` of a registered data source);
            `hub:NAME` or `hub:NAME#CONFIGURATION`; `mds:FOLDER` with shards of mosaicml-streaming. Environment
            variables, as `$HYPERSEEK_DATA`, are filled in; one that is not set is an error.
        text_key: Key or column of the text; None finds the usual ones (`text`, `content`, `body`, ...).
        title_key: Key or column of a title to put before the text; None means no title, except in collections.
        split: Split of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.
        divide: The unit of text in a plain text file: a `paragraph`, a `line`, or the whole `file`.
        limit: Use only the first `limit` texts.
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
        """Raise ConfigError if a setting is given that a source of this kind does not read.

        Args:
            kind: The kind of source, with its article.
            *read: Names of the settings it reads, of those that not all sources read.
        """
        for name in ("text_key", "title_key", "split", "revision", "divide"):
            if name not in read and getattr(self, name) != type(self).model_fields[name].default:
                raise ConfigError(f"the source {self.source!r} is {kind}: {name} means nothing; leave it out")


class TextConfig(Config):
    """The texts, and how they are split into sequences.

    Attributes:
        sources: Sources by a name of your choice.
        sequence_length: Tokens of a sequence, special ones included; texts are joined and cut to this length.
        validation_share: Fraction of the texts kept for validation, in [0, 1), chosen by a hash of the text, so that
            equal texts are never on both sides.
    """

    sources: Annotated[dict[str, TextSourceConfig], BeforeValidator(without_removed)] = Field(min_length=1)
    sequence_length: int = Field(default=512, ge=8)
    validation_share: float = Field(default=0.01, ge=0, lt=1)


class MaskingConfig(Config):
    """Which tokens are to be predicted.

    Attributes:
        train: Fraction of the tokens in training, redrawn every epoch.
        validation: Fraction of the tokens in validation; always the same ones.
        masked: Fraction of these that the mask token replaces.
        random: Fraction of these that a random token replaces; the rest are left unchanged.
    """

    train: float = Field(default=0.3, gt=0, lt=1)
    validation: float = Field(default=0.15, gt=0, lt=1)
    masked: float = Field(default=0.8, ge=0, le=1)
    random: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.masked + self.random > 1:
            raise ValueError(f"masked and random must not add up to more than 1; {self.masked} + {self.random} does")
        return self


class PretrainConfig(LoopConfig):
    """Settings of pre-training: the loop (see `LoopConfig`), AdamW, and memory.

    Attributes:
        adam_betas: Decay of AdamW's two averages.
        adam_epsilon: Epsilon of AdamW.
        gradient_checkpointing: Whether activations are recomputed in the backward pass instead of kept.
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
    """When the loss on the validation texts is measured, in addition to before and after training.

    Attributes:
        every: Steps between validations; None for none in between.
        sequences: Most sequences to measure on; None takes all.
        batch_size: Sequences of a batch, for each process; None takes the training batch size.
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
        train: The training loop.
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
            raise ValueError("validation has no texts, as data.validation_share is 0; raise it, or remove validation")
        return self


def read_pretrain_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Read a recipe file, with its bases, and apply overrides.

    Args:
        path: A YAML file, or the name of a bundled recipe, as in `mlm-tiny-pydocs`.
        overrides: Each `section.field=value`; the value is read as YAML.

    Returns:
        The recipe.

    Raises:
        ConfigError: A file, a base or an override is invalid; the message names the closest known key.
        UnknownNameError: There is neither a file nor a recipe with that name.
    """
    values = recipe_values(path, overrides)
    if "losses" in values:
        raise ConfigError(f"{path} is a retrieval training recipe; run it with `hyperseek train`")
    return PretrainRecipe.from_mapping(values, source=str(path))
