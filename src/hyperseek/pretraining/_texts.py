"""Texts of any source, local or remote, as a stream, and tokenizers: loaded, or trained on these texts."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers import models as token_models
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hyperseek._bounded import whole_text
from hyperseek._documents import TEXT_KEYS, find_key
from hyperseek._files import locked, take_umask
from hyperseek._fingerprint import fingerprint_file, fingerprint_json
from hyperseek._folders import staged_folder
from hyperseek.data import open_dataset
from hyperseek.data.hub import hub_fingerprint, streamed_hub_rows
from hyperseek.data.open import registered_source
from hyperseek.data.reading import Faults, Row, base_suffix, json_lines, numbered_lines, paragraphs
from hyperseek.data.tables import mds_fingerprint, mds_rows
from hyperseek.errors import ConfigError, DataError, shown
from hyperseek.models.light import resolve_name
from hyperseek.models.loading import loading
from hyperseek.pretraining._recipe import TRAIN_TOKENIZER, EncoderConfig, TextSourceConfig, VocabularyConfig
from hyperseek.runs.recipe import expanded

_PLAIN = (".txt", ".md", ".rst")
_READ = (*_PLAIN, ".jsonl")
_KEYS = ("text_key", "title_key")  # settings of sources whose records have keys


@dataclass(frozen=True, slots=True)
class TextSource:
    """A source that exists, not yet read.

    Attributes:
        name: For logs and records.
        fingerprint: Fingerprint of the content and of how texts are taken from it.
        read: Reads it from the beginning, always the same texts in the same order.
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterator[str]]


def open_texts(name: str, config: TextSourceConfig) -> TextSource:
    """Find a source of texts.

    Args:
        name: Its name.
        config: Its settings.

    Returns:
        The source; reading it leaves out empty and blank texts, and raises `DataError` if there are no
        others.

    Raises:
        ConfigError: A setting is given that a source of this kind does not read.
        DataError: There is no such file, folder or data set, or it is of an unknown kind.
        MissingExtraError: The package that reads this kind of source is not installed.
    """
    place = expanded(config.source)
    if place.startswith("hub:"):
        config.check_read("a Hub dataset", *_KEYS, "split", "revision")
        content, read = _hub(place.removeprefix("hub:"), config)
    elif place.startswith("mds:"):
        config.check_read("a folder of MDS shards", *_KEYS)
        content, read = _mds(Path(place.removeprefix("mds:")), config)
    elif (kind := registered_source(place)) is not None or _is_collection(Path(place)):
        config.check_read("a collection", *(_KEYS if kind is None or kind.fields else ()))
        content, read = _collection(place, config)
    else:
        files = _find_files(place)
        in_json = {base_suffix(file) == ".jsonl" for file in files}
        read_here = (*(_KEYS if True in in_json else ()), *(("divide",) if False in in_json else ()))
        config.check_read("JSON lines" if in_json == {True} else "plain text", *read_here)
        content, read = _files(files, config)
    options = config.model_dump(exclude={"source", "limit"})

    def texts() -> Iterator[str]:
        text = None
        for text in islice((text for text in read() if text.strip()), config.limit):
            yield text
        if text is None:
            raise DataError("holds no text", path=place)

    return TextSource(name, fingerprint_json([content, options, config.limit]), texts)


def text_of_row(
    rows: Iterable[Row], place: object, faults: Faults, *, text_key: str | None, title_key: str | None
) -> Iterator[str]:
    """Take the texts out of rows.

    Args:
        rows: Records and their numbers.
        place: Their source, for messages.
        faults: Takes records without a text.
        text_key: Key of the text; None finds it in the first record.
        title_key: Key of a title to put before it, or None.

    Yields:
        The texts.
    """
    for line, row in rows:
        if text_key is None:
            text_key = find_key(TEXT_KEYS, row)
            if text_key is None:
                raise DataError(
                    f"no key with a usual name; set text_key to one of {shown(sorted(row), 200)}",
                    path=place,
                    line=line,
                )
        text, title = row.get(text_key), row.get(title_key) if title_key else ""
        if not isinstance(text, str):
            problem = "no value" if text is None else f"needs a string, has {shown(text)},"
            faults.found(
                "bad_field", f"{problem} for {text_key!r}; it has {shown(sorted(row), 200)}", path=place, line=line
            )
        elif title is not None and not isinstance(title, str):
            faults.found("bad_field", f"needs a string for {title_key!r}, has {shown(title)}", path=place, line=line)
        else:
            yield f"{title or ''} {text}".strip()
    faults.finish(place)


def _hub(name: str, config: TextSourceConfig) -> tuple[str, Callable[[], Iterator[str]]]:
    def read() -> Iterator[str]:
        rows = streamed_hub_rows(name, split=config.split, revision=config.revision)
        return _from_rows(rows, f"hub:{name}", config)

    return hub_fingerprint(name, split=config.split, revision=config.revision), read


def _mds(folder: Path, config: TextSourceConfig) -> tuple[str, Callable[[], Iterator[str]]]:
    return mds_fingerprint(folder), lambda: _from_rows(mds_rows(folder), f"mds:{folder}", config)


def _from_rows(rows: Iterable[Row], place: str, config: TextSourceConfig) -> Iterator[str]:
    faults = Faults(config.on_error)
    return text_of_row(rows, place, faults, text_key=config.text_key, title_key=config.title_key)


def _is_collection(path: Path) -> bool:
    return base_suffix(path) == ".tsv" or (path.is_dir() and any(path.glob("corpus.*")))


def _collection(place: str, config: TextSourceConfig) -> tuple[str, Callable[[], Iterator[str]]]:
    dataset = open_dataset(
        place, text_key=config.text_key, title_key=config.title_key, on_error=config.on_error, check=False
    )
    return dataset.fingerprint(), lambda: (document.full_text for document in dataset.documents())


def _find_files(place: str) -> list[Path]:
    path = Path(place)
    if path.is_dir():
        if (path / "index.json").is_file():
            raise DataError(f"looks like MDS shards; write 'mds:{place}'", path=path)
        found = sorted(file for file in path.rglob("*") if base_suffix(file) in _READ and file.is_file())
        problem = f"holds no file of {', '.join(_READ)} (plain or .gz), and no corpus"
    elif path.is_file():
        found, problem = [path], ""
    else:
        found, problem = sorted(Path(file) for file in glob.glob(place, recursive=True)), "no such file or folder"
    if not found:
        raise DataError(
            f"{problem}; give files, a folder, a pattern, a collection, 'hub:NAME' or 'mds:FOLDER'", path=place
        )
    strange = [file for file in found if base_suffix(file) not in _READ]
    if strange:
        raise DataError(f"is not one of {', '.join(_READ)} (plain or .gz), nor a corpus .tsv", path=strange[0])
    return found


def _files(files: list[Path], config: TextSourceConfig) -> tuple[str, Callable[[], Iterator[str]]]:
    def read() -> Iterator[str]:
        for file in files:
            faults = Faults(config.on_error)
            if base_suffix(file) == ".jsonl":
                yield from _from_rows(json_lines(file, faults), str(file), config)
            elif config.divide == "file":
                yield whole_text(file)
            else:
                lines = numbered_lines(file, faults)
                yield from (line for _, line in lines) if config.divide == "line" else paragraphs(lines)
            faults.finish(file)

    kinds = [base_suffix(file) for file in files]
    return fingerprint_json([kinds, [fingerprint_file(file) for file in files]]), read


_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_LAYOUT = 1

logger = logging.getLogger(__name__)


def get_tokenizer(
    config: EncoderConfig, sources: Iterable[TextSource], *, cache: Path, length: int
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that a recipe names, or train it.

    Args:
        config: The recipe's model section.
        sources: The texts, for `train`.
        cache: Where trained tokenizers are kept; for the same texts and options it is trained once.
        length: Tokens of a sequence.

    Returns:
        The tokenizer; it has tokens for masks, padding, and the end of a text.

    Raises:
        ConfigError: It lacks one of these tokens.
        ModelError: It cannot be loaded.
    """
    if config.tokenizer == TRAIN_TOKENIZER:
        folder = _trained(config.vocabulary or VocabularyConfig(), list(sources), cache)
    else:
        folder = resolve_name(str(config.tokenizer or config.start))
    with loading("a tokenizer", folder, folder):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    missing = [name for name in ("mask", "pad") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing or end_of_text(tokenizer) is None:
        lacking = [f"{name}_token" for name in missing] + ([] if end_of_text(tokenizer) is not None else ["sep_token"])
        raise ConfigError(
            f"the tokenizer {folder} has no {' and no '.join(lacking)}; masked language modelling needs it: "
            f"choose another tokenizer, or add the token to it"
        )
    tokenizer.model_max_length = length
    return tokenizer


def begin_of_text(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token that precedes a text, or None."""
    return _first_id(tokenizer.cls_token_id, tokenizer.bos_token_id)


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token that follows a text, or None."""
    return _first_id(tokenizer.sep_token_id, tokenizer.eos_token_id)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a fingerprint of everything that determines the ids of a text."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    content = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return fingerprint_json([type(tokenizer).__name__, content, tokenizer.special_tokens_map])


def _first_id(*ids: Any) -> int | None:
    return next((int(value) for value in ids if value is not None), None)


def _trained(config: VocabularyConfig, sources: list[TextSource], cache: Path) -> str:
    identity = {"layout": _LAYOUT, "sources": [source.fingerprint for source in sources], **config.model_dump()}
    folder = cache / "tokenizers" / fingerprint_json(identity)
    # One process trains it, all others wait: a barrier would time out on a large corpus.
    with locked(f"{folder}.lock"):
        if not folder.is_dir():
            logger.info("making a vocabulary of %d tokens in %s", config.size, folder)
            texts = islice((text for source in sources for text in source.read()), config.texts)
            with staged_folder(folder, overwrite=False, owned=()) as staging:
                make_tokenizer(texts, config).save_pretrained(staging)
                take_umask(staging)
    return str(folder)


def make_tokenizer(texts: Iterator[str], config: VocabularyConfig) -> PreTrainedTokenizerFast:
    """Train a tokenizer.

    Args:
        texts: The texts.
        config: Its kind and size.

    Returns:
        The tokenizer, with BERT's special tokens; it may have fewer tokens than requested if there are few texts.

    Raises:
        DataError: There are no texts.
    """
    first = next(texts, None)
    if first is None:
        raise DataError("there are no texts to make a vocabulary from; check data.sources")
    special = list(_SPECIAL.values())
    if config.kind == "wordpiece":
        tokenizer = Tokenizer(token_models.WordPiece(unk_token=_SPECIAL["unk"]))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer: Any = WordPieceTrainer(vocab_size=config.size, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(token_models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = BpeTrainer(
            vocab_size=config.size,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    tokenizer.train_from_iterator(_with(first, texts), trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in (_SPECIAL["cls"], _SPECIAL["sep"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in _SPECIAL.items()}
    )


def _with(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
