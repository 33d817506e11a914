"""Language models that answer prompts: behind an OpenAI-compatible endpoint, or in this process by transformers."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field, field_validator

from hyperseek._config import LARGEST_SEED, Config
from hyperseek._fingerprint import fingerprint_json
from hyperseek.errors import HyperseekError, InputError, ModelError, brief, require, shown
from hyperseek.evaluation.rag._usage import token_count
from hyperseek.mining.http_endpoint import Endpoint, RefusedError

KEY_VARIABLE = "HYPERSEEK_GENERATOR_KEY"
PROMPT = (
    "Based on the following context, answer the question.\n\nContext:\n{contexts}\n\nQuestion: {question}\n\nAnswer:"
)
"""The default prompt, after HypRAG's evaluation."""

_PLACES = re.compile(r"\{(contexts|question)\}")

logger = logging.getLogger(__name__)


class GenerationOptions(Config):
    """How answers are generated.

    Attributes:
        temperature: 0 takes the likeliest token; HypRAG's evaluation has 0.5.
        top_p: Share of the probability that is drawn from, with a temperature above 0.
        max_new_tokens: Most tokens of an answer.
        seed: Seed of the draws, with a temperature above 0; endpoints may not heed it.
        prompt: What is asked, with `{contexts}` for the contexts, numbered from [1], and `{question}`.
    """

    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=512, ge=1)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    prompt: str = PROMPT

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, value: str) -> str:
        missing = {"contexts", "question"} - set(_PLACES.findall(value))
        if missing:
            raise ValueError(f"it must hold {' and '.join(f'{{{name}}}' for name in sorted(missing))}")
        return value

    def filled(self, question: str, contexts: Sequence[str]) -> str:
        """Return the prompt for a question and its contexts."""
        numbered = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(contexts, start=1))
        values = {"contexts": numbered, "question": question}
        # In one pass, since a context may hold the other place's name.
        return _PLACES.sub(lambda place: values[place[1]], self.prompt)


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer.

    Attributes:
        text: What was said.
        prompt_tokens: Tokens of the prompt; None if unknown.
        completion_tokens: Tokens of the answer; None if unknown.
    """

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Generator(Protocol):
    """What answers prompts.

    Attributes:
        name: Its name in records.
        fingerprint: Changes with its answers.
        options: How it generates.
        at_once: Prompts that it takes at a time.
    """

    name: str
    options: GenerationOptions
    at_once: int

    @property
    def fingerprint(self) -> str:
        """Changes with its answers."""
        ...

    def generate(self, prompt: str) -> Generated:
        """Answer a prompt; RefusedError where this one cannot be answered.

        A generator that also has `count_tokens(texts)`, as `LocalGenerator` has, counts the tokens of contexts.
        """
        ...


class EndpointGenerator:
    """A model behind `POST /chat/completions`.

    Args:
        model: Its name there.
        url: The endpoint, as in `https://api.example.com/v1`.
        key: Sent as a bearer token; None sends none.
        key_variable: Where the key comes from, for messages.
        options: How to generate; None for the defaults.
        at_once: Requests at a time.
        timeout: Seconds to wait for an answer.
        retries: Further attempts after a busy server or a lost connection.

    Raises:
        InputError: The address or a number cannot be used, or a key would travel unencrypted.
    """

    path = "/chat/completions"

    def __init__(
        self,
        model: str,
        *,
        url: str,
        key: str | None = None,
        key_variable: str | None = None,
        options: GenerationOptions | None = None,
        at_once: int = 4,
        timeout: float = 300.0,
        retries: int = 4,
    ) -> None:
        if at_once < 1:
            raise InputError(f"at_once must be 1 or more, not {at_once}")
        self.name, self.at_once, self.options = model, at_once, options or GenerationOptions()
        self._endpoint = Endpoint(
            f"the generator {model}", url, self.path,
            key=key, key_variable=key_variable, timeout=timeout, retries=retries,
        )  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the address, the model's name and the options; a change behind the name is not seen."""
        return fingerprint_json([self._endpoint.url, self.name, self.options.model_dump(mode="json")])

    def generate(self, prompt: str) -> Generated:
        """Answer a prompt.

        Args:
            prompt: The user's message.

        Returns:
            The answer.

        Raises:
            RefusedError: The endpoint refuses this prompt.
            ModelError: It does not answer, or answers something else.
        """
        options = self.options
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": options.temperature,
            "max_tokens": options.max_new_tokens,
        }
        if options.temperature:
            body |= {"top_p": options.top_p, "seed": options.seed}
        answer = self._endpoint.ask(body)
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            text = False
        if text is not None and not isinstance(text, str):
            raise self._endpoint.error(
                f"must answer {{'choices': [{{'message': {{'content'}}}}]}}, not {shown(answer, 200)}"
            )
        usage = answer.get("usage")
        counts = usage if isinstance(usage, Mapping) else {}
        return Generated(
            text or "", *(token_count(counts.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        )


class LocalGenerator:
    """A causal language model that transformers runs; it is loaded when the first prompt comes.

    Args:
        place: A folder of transformers, or one with a GGUF file; a `.gguf` file; the name of an installed package that
            holds one of these, which is not imported; or a name on the Hub.
        options: How to generate; None for the defaults.
        device: Its device; None takes a GPU if there is one.

    Raises:
        ModelError: There is no such file or folder, or it holds several GGUF files.
    """

    at_once = 1

    def __init__(
        self, place: str | os.PathLike[str], *, options: GenerationOptions | None = None, device: str | None = None
    ) -> None:
        self.name, self.options, self._device = os.fspath(place), options or GenerationOptions(), device
        self._folder, self._gguf = _find_model(self.name)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the names and sizes of the model's files, and of the options."""
        folder = Path(self._folder)
        files: list[Any] = [self.name]
        if folder.is_dir():
            names = [self._gguf] if self._gguf else sorted(path.name for path in folder.iterdir() if path.is_file())
            files = [[name, (folder / name).stat().st_size] for name in names]
        return fingerprint_json([files, self.options.model_dump(mode="json")])

    def generate(self, prompt: str) -> Generated:
        """Answer a prompt, by the model's chat template if it has one.

        Args:
            prompt: The user's message.

        Returns:
            The answer.

        Raises:
            RefusedError: The prompt and the answer are longer than the model's context.
            ModelError: The model cannot be loaded, or fails.
        """
        model, tokenizer = self._loaded
        try:
            return self._answer(model, tokenizer, prompt)
        except HyperseekError:
            raise
        except Exception as error:  # of a chat template, or of a model in which not all is as it should be
            raise ModelError(
                f"the generator {self.name!r} cannot answer: {type(error).__name__}: {brief(error)}"
            ) from error

    def _answer(self, model: Any, tokenizer: Any, prompt: str) -> Generated:
        import torch

        options = self.options
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:
            inputs = tokenizer(prompt, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        context = getattr(model.config, "max_position_embeddings", None)
        if context is not None and length + options.max_new_tokens > context:
            raise RefusedError(
                f"the prompt has {length:,} tokens, and with {options.max_new_tokens:,} of the answer that is more "
                f"than the {context:,} that {self.name} reads; ask for fewer or shorter contexts"
            )
        given = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
        drawn: dict[str, Any] = {"do_sample": False}
        if options.temperature:
            # From the prompt too, so that an answer does not depend on those before it.
            torch.manual_seed(options.seed + int(fingerprint_json(prompt)[:8], 16))
            drawn = {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p}
        with torch.inference_mode():
            output = model.generate(**given, max_new_tokens=options.max_new_tokens, **drawn)
        new = output[0][length:]
        return Generated(tokenizer.decode(new, skip_special_tokens=True).strip(), length, len(new))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without special ones."""
        return [len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in texts]

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with self._loading() as packed:
            return AutoTokenizer.from_pretrained(self._folder, **packed)

    @contextmanager
    def _loading(self) -> Iterator[dict[str, Any]]:
        """Yield arguments of transformers, and turn its errors into one of ours."""
        from transformers.utils import logging as untyped

        packed: dict[str, Any] = {"trust_remote_code": False}
        if self._gguf:
            for module in ("gguf", "accelerate"):
                require(module, extra="rag")
            packed["gguf_file"] = self._gguf
        bars: Any = untyped
        shown_before = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()  # ours counts answers
        try:
            yield packed
        except Exception as error:
            raise ModelError(
                f"cannot load the generator {self.name!r}: {type(error).__name__}: {brief(error)}"
            ) from error
        finally:
            if shown_before:
                bars.enable_progress_bar()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForCausalLM

        if self._gguf:
            logger.info("unpacking %s takes half a minute or more", self._gguf)
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        kind = torch.float32 if device == "cpu" else torch.bfloat16
        tokenizer = self._tokenizer
        with self._loading() as packed:
            model: Any = AutoModelForCausalLM.from_pretrained(self._folder, dtype=kind, **packed)
        settings = model.generation_config
        settings.temperature = settings.top_p = settings.top_k = None  # only the caller's count
        if settings.pad_token_id is None:
            settings.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        model.to(device).eval()
        return model, tokenizer


def _find_model(name: str) -> tuple[str, str | None]:
    """Return the folder or Hub name of a model, and its GGUF file."""
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{name} is a file, but not a .gguf one; give a folder of transformers")
        return str(path.parent), path.name
    if not path.is_dir() and (package := _package_folder(name)) is not None:
        path = package
    if not path.is_dir():
        if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
            raise ModelError(
                f"there is no model {shown(name)}; give a folder, a .gguf file, an installed package that holds one, "
                f"ORGANISATION/NAME of the Hub, or --generator-url for an endpoint"
            )
        return name, None
    if (path / "config.json").is_file():
        return str(path), None
    packed = sorted(file.name for file in path.iterdir() if file.suffix.lower() == ".gguf")
    if len(packed) != 1:
        what = (
            f"several GGUF files ({', '.join(packed)}); name one" if packed else "neither config.json nor a GGUF file"
        )
        raise ModelError(f"{path} holds {what}")
    return str(path), packed[0]


def _package_folder(name: str) -> Path | None:
    """Return the folder of an installed package, without importing it."""
    module = name.replace("-", "_")
    if not module.isidentifier():
        return None
    found = importlib.util.find_spec(module)
    places = None if found is None else found.submodule_search_locations
    return Path(next(iter(places))) if places else None


def load_generator(
    model: str,
    *,
    url: str | None = None,
    key_variable: str = KEY_VARIABLE,
    options: GenerationOptions | None = None,
    device: str | None = None,
    at_once: int = 4,
) -> EndpointGenerator | LocalGenerator:
    """Load what answers prompts.

    Args:
        model: With `url`, the model's name there; otherwise as for `LocalGenerator`.
        url: An OpenAI-compatible endpoint, as in `http://localhost:8000/v1`.
        key_variable: The environment's variable that holds the endpoint's key; none is sent where it is not set.
        options: How to generate; None for the defaults.
        device: Of a local model; None takes a GPU if there is one.
        at_once: Requests at a time, to an endpoint.

    Returns:
        The generator; nothing is sent or loaded yet.

    Raises:
        InputError: The address cannot be used.
        ModelError: There is no such local model.
    """
    if url is None:
        return LocalGenerator(model, options=options, device=device)
    key = os.environ.get(key_variable) or None
    return EndpointGenerator(model, url=url, key=key, key_variable=key_variable, options=options, at_once=at_once)
