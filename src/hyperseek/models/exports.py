"""Exports: the transformers of a model run by ONNX Runtime or OpenVINO instead of torch, on a CPU.

Only the transformer that a route begins with is exported, whatever family the model is of: tokenizer, pooling and heads
stay as they are, and so do weights, fingerprint and saving. An export is made once for each content of the weights, by
tracing, and kept in the cache folder of the user (`$HYPERSEEK_CACHE`); none is ever taken from the folder of a model.
It is compared with torch on texts of the model's own vocabulary before it is used.

Shapes: `B` texts, `T` tokens, `d` numbers of a token's state.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from hyperseek._files import locked, read_json, take_umask, write_json
from hyperseek._fingerprint import fingerprint_json, fingerprint_weights
from hyperseek._folders import checksum_folder, scratch_folder
from hyperseek.errors import HyperseekError, ModelError, brief
from hyperseek.models.backends import BACKENDS, Backend, Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperseek.models.retriever import Retriever

logger = logging.getLogger(__name__)

_FORMAT = 1  # of the folder of an export
_RECORD = "export.json"
# Lengths of the texts that an export is compared on, in tokens; as far as the model reads.
_LENGTHS = (1, 2, 3, 5, 9, 17, 40, 80, 160, 250)


def run_by(retriever: Retriever, name: str, *, cache: Path) -> None:
    """Let a backend run the transformers of a model.

    Args:
        retriever: On the CPU; changed in place. Its transformers can no longer be trained.
        name: Of the backend.
        cache: The folder for exports.

    Raises:
        UnknownNameError: There is no such backend.
        MissingExtraError: Its packages are not installed.
        ModelError: The model has no transformer, or one that cannot be exported, or the export differs from it.
    """
    backend = BACKENDS[name]()
    backend.require_packages()
    trunks = {
        side: trunk for side in ("document", "query") if isinstance(trunk := retriever.route(side)[0], Transformer)
    }
    if not trunks:
        raise ModelError(f"{retriever.source} has no transformer that the backend {name} could run; leave it out")
    known: dict[int, _Runner] = {}
    for side, trunk in trunks.items():
        if getattr(trunk, "reaches_inside", False):
            raise ModelError(
                f"the {type(trunk).__name__} of {retriever.source} chooses tokens between the layers of its encoder, "
                f"which only torch can run; leave the backend {name} out"
            )
        if id(trunk.model) not in known:
            part = _Part.of(retriever, side, trunk)
            known[id(trunk.model)] = _opened(part, backend, name, cache)
    for trunk in trunks.values():
        trunk.model.requires_grad_(False)
        trunk.model.forward = known[id(trunk.model)]
    retriever.backend = name
    retriever.backend_dtype = backend.dtype


@dataclass(frozen=True)
class _Part:
    """A transformer that is to be exported: its encoder, the name of its output, and examples of its inputs."""

    encoder: Any
    output: str
    inputs: Mapping[str, Tensor]

    @classmethod
    def of(cls, retriever: Retriever, side: Any, trunk: Transformer) -> _Part:
        """Record what a transformer passes to its encoder for texts of different lengths."""
        how = trunk.modality_config["text"]
        outputs = how["method_output_name"]
        name = outputs if isinstance(outputs, str) else "/".join(map(str, outputs or ()))
        if how["method"] != "forward" or not name or "/" in name:
            raise ModelError(f"only the token states of an encoder can be exported, not its {name or how['method']}")
        seen: dict[str, Any] = {}
        encoder: Any = trunk.model

        def record(**given: Any) -> Any:
            seen.update(given)
            return type(encoder).forward(encoder, **given)

        features = retriever.tokenize(_texts(retriever, trunk, side), side)
        encoder.forward = record
        try:
            with torch.inference_mode():
                trunk({**features})
        finally:
            del encoder.forward
        inputs = {key: value for key, value in seen.items() if isinstance(value, Tensor)}
        strange = [key for key, value in inputs.items() if value.ndim != 2 or value.is_floating_point()]
        if strange:
            raise ModelError(f"only encoders of tokens can be exported, and this one reads {', '.join(strange)}")
        return cls(encoder, name, {key: value.clone() for key, value in inputs.items()})

    def states(self) -> Tensor:
        """Return the states `(B, T, d)` of the examples by torch, in float32."""
        with torch.inference_mode():
            states: Tensor = self.traceable()(*self.inputs.values()).float()
        return states

    def traceable(self) -> nn.Module:
        """Return a module that maps the inputs, in order, to the states."""
        encoder = self.encoder if self.encoder.dtype == torch.float32 else copy.deepcopy(self.encoder).float()
        return _Traceable(encoder, tuple(self.inputs), self.output).eval()  # exporters restore the mode

    def key(self, backend: Backend) -> str:
        """Name the export by all that it depends on."""
        config = self.encoder.config.to_dict()
        packages = {name: version(name) for name in ("torch", "transformers")}
        weights = fingerprint_weights(self.encoder)
        kind = f"{type(self.encoder).__module__}.{type(self.encoder).__qualname__}"
        parts = [_FORMAT, backend.form, kind, weights, config, list(self.inputs), self.output, packages]
        return fingerprint_json(parts)


class _Traceable(nn.Module):
    def __init__(self, encoder: nn.Module, names: tuple[str, ...], output: str) -> None:
        super().__init__()
        self.encoder, self.names, self.output = encoder, names, output

    def forward(self, *inputs: Tensor) -> Tensor:
        states: Tensor = self.encoder(**dict(zip(self.names, inputs, strict=True)), return_dict=True)[self.output]
        return states


class _Runner:
    """Stands for the `forward` of an encoder; copies of the encoder share it."""

    def __init__(self, run: Run, part: _Part, name: str) -> None:
        self._run, self._names, self._output = run, tuple(part.inputs), part.output
        self._dtype, self._backend = part.encoder.dtype, name

    def __deepcopy__(self, memo: object) -> _Runner:
        return self

    def __call__(self, **given: Any) -> dict[str, Tensor]:
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        if tensors.keys() != set(self._names):
            raise ModelError(
                f"the encoder was exported for {', '.join(self._names)} and is given {', '.join(tensors)}; load the "
                f"model without backend={self._backend!r}"
            )
        with _explained(self._backend):
            states = self._run([tensors[name].long().numpy() for name in self._names])
        return {self._output: torch.from_numpy(states).to(self._dtype)}


def _opened(part: _Part, backend: Backend, name: str, cache: Path) -> _Runner:
    """Return what runs a transformer, exported now if it has not been before."""
    folder = cache / part.key(backend)
    with _explained(name), locked(cache / f"{folder.name}.lock"):
        if not _is_whole(folder):
            logger.info("exporting a %s for the backend %s", type(part.encoder).__name__, name)
            _export(part, backend, folder)
        runner = _Runner(backend.open(folder, tuple(part.inputs)), part, name)
        record = read_json(folder / _RECORD, "the record of an export", error=ModelError)
        if name not in record["differences"]:
            record["differences"][name] = _difference(runner, part)
            write_json(folder / _RECORD, record)
    difference = float(record["differences"][name])
    if not difference <= backend.most_difference:
        raise ModelError(
            f"a {type(part.encoder).__name__} run by the backend {name} gives other states than torch: they differ by "
            f"{difference:.2g} of their norm, and at most {backend.most_difference:.2g} is allowed; load the model "
            f"without a backend, or with one in float32"
        )
    logger.info("states by the backend %s differ from torch's by %.1e of their norm", name, difference)
    return runner


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever an exporter raises into one error."""
    try:
        yield
    except HyperseekError:
        raise
    except Exception as error:
        raise ModelError(
            f"the backend {name} cannot run this model ({type(error).__name__}: {brief(error)}); load it without"
        ) from error


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds an export as it was written."""
    if not (folder / _RECORD).is_file():
        return False
    try:
        record = read_json(folder / _RECORD, "the record of an export", error=ModelError)
        return bool(record["files"] == _sums(folder)) and isinstance(record["differences"], dict)
    except (HyperseekError, KeyError, TypeError, OSError):
        return False


def _sums(folder: Path) -> dict[str, list[int]]:
    found = checksum_folder(folder)
    return {name: list(value) for name, value in sorted(found.items()) if name != _RECORD}


def _export(part: _Part, backend: Backend, folder: Path) -> None:
    """Write an export to a folder, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as scratch, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing, whose result is compared
        backend.export(part.traceable(), part.inputs, scratch)
        take_umask(scratch)
        write_json(scratch / _RECORD, {"form": backend.form, "files": _sums(scratch), "differences": {}})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(scratch, folder)


def _difference(runner: _Runner, part: _Part) -> float:
    """Return how far the mean states of the examples are apart at most, relative to their norms; infinity for NaN."""
    mask = part.inputs.get("attention_mask", torch.ones_like(next(iter(part.inputs.values()))))[..., None].float()
    expected = (part.states() * mask).sum(1)
    found = (runner(**part.inputs)[part.output].float() * mask).sum(1)
    apart = torch.linalg.vector_norm(found - expected, dim=1) / torch.linalg.vector_norm(expected, dim=1)
    return float(apart.nan_to_num(1e9, posinf=1e9).max())


def _texts(retriever: Retriever, trunk: Transformer, side: Any) -> list[str]:
    """Draw texts of many lengths from the vocabulary of a model."""
    tokenizer: Any = trunk.tokenizer
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha()) or ["a"]
    draw = np.random.default_rng(0)
    limit = retriever.max_length[side] or _LENGTHS[-1]
    return [" ".join(draw.choice(words, min(length, limit))) for length in _LENGTHS]
