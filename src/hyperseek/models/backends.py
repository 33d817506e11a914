"""What can run a transformer on a CPU instead of torch: ONNX Runtime and OpenVINO, in several number types.

Shapes: `B` texts, `T` tokens, `d` numbers of a token's state.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hyperseek._registry import Registry
from hyperseek.errors import InputError, ModelError, require, shown

Run = Callable[[Sequence[npt.NDArray[np.int64]]], npt.NDArray[np.float32]]
"""Maps the inputs, `(B, T)` each, to token states `(B, T, d)`."""

_INT8 = 127


class Backend:
    """What runs an exported transformer. Instances have no state.

    Attributes:
        dtype: Number type in which it computes.
        extra: The extra that installs its packages.
        packages: Modules that it imports.
        most_difference: How far the mean state of a text may be from torch's, relative to its norm.
    """

    dtype: ClassVar[str] = "float32"
    extra: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    most_difference: ClassVar[float] = 1e-3

    @property
    def form(self) -> str:
        """Names what `export` writes; backends with one form share exports."""
        raise NotImplementedError

    def require_packages(self) -> None:
        """Import the packages.

        Raises:
            MissingExtraError: One is not installed.
        """
        for package in self.packages:
            require(package, extra=self.extra)

    def export(self, encoder: nn.Module, inputs: Mapping[str, Tensor], folder: Path) -> None:
        """Write a transformer to a folder.

        Args:
            encoder: Maps the inputs, in order, to token states.
            inputs: An example of each input, by name.
            folder: Exists and is empty.
        """
        raise NotImplementedError

    def open(self, folder: Path, names: Sequence[str]) -> Run:
        """Open what `export` wrote.

        Args:
            folder: Where.
            names: Of the inputs, in order.

        Returns:
            A function that threads may share.
        """
        raise NotImplementedError


class Onnx(Backend):
    """ONNX Runtime, in float32."""

    extra = "onnx"
    packages = ("onnx", "onnxruntime")

    @property
    def form(self) -> str:
        """Depends on torch's exporter alone."""
        return "onnx"

    def export(self, encoder: nn.Module, inputs: Mapping[str, Tensor], folder: Path) -> None:
        """Write `model.onnx`, by the exporter of torch that needs no further package."""
        axes = {name: {0: "texts", 1: "tokens"} for name in (*inputs, "states")}
        torch.onnx.export(
            encoder,
            tuple(inputs.values()),
            folder / "model.onnx",
            input_names=list(inputs),
            output_names=["states"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )

    def open(self, folder: Path, names: Sequence[str]) -> Run:
        """Open a session with as many threads as torch has."""
        runtime = require("onnxruntime", extra=self.extra)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = runtime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        known = {each.name for each in session.get_inputs()}  # tracing drops those that change nothing

        def run(inputs: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
            given = {name: value for name, value in zip(names, inputs, strict=True) if name in known}
            return cast("npt.NDArray[np.float32]", session.run(None, given)[0])

        return run


class OnnxInt8(Onnx):
    """ONNX Runtime, with weights in int8 by channel and activations quantised as they come."""

    dtype = "int8"
    most_difference = 0.3

    @property
    def form(self) -> str:
        """Depends on the quantisation of ONNX Runtime, too."""
        return f"onnx-int8 {version('onnxruntime')}"

    def export(self, encoder: nn.Module, inputs: Mapping[str, Tensor], folder: Path) -> None:
        """Write `model.onnx` with the weights of products in int8."""
        quantization = require("onnxruntime.quantization", extra=self.extra)
        super().export(encoder, inputs, folder)
        whole = folder / "float32.onnx"
        os.replace(folder / "model.onnx", whole)
        quantization.quantize_dynamic(
            whole, folder / "model.onnx", per_channel=True, weight_type=quantization.QuantType.QInt8
        )
        whole.unlink()


class OpenVino(Backend):
    """OpenVINO, in float32."""

    extra = "openvino"
    packages = ("openvino",)
    settings: ClassVar[Mapping[str, Any]] = {"INFERENCE_PRECISION_HINT": "f32"}

    def require_packages(self) -> None:
        """Import OpenVINO as it is imported everywhere here."""
        _openvino()

    @property
    def form(self) -> str:
        """Depends on the version of OpenVINO."""
        return f"openvino {version('openvino')}"

    def export(self, encoder: nn.Module, inputs: Mapping[str, Tensor], folder: Path) -> None:
        """Write `model.xml` and `model.bin`, from the module itself, whose attention then stays one operation."""
        openvino = _openvino()
        model = openvino.convert_model(encoder, example_input=tuple(inputs.values()))
        self.change(model)
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)

    def change(self, model: Any) -> None:
        """Change a converted model before it is written."""

    def open(self, folder: Path, names: Sequence[str]) -> Run:
        """Compile the model for the CPU, with as many threads as torch has."""
        model = _core().compile_model(
            folder / "model.xml",
            "CPU",
            {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(), **self.settings},
        )
        count = len(model.inputs)
        if count != len(names):
            raise ModelError(f"the converted model reads {count} inputs instead of {', '.join(names)}")

        def run(inputs: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
            request = model.create_infer_request()  # one for each call, so that threads may share the model
            return np.array(request.infer(list(inputs), share_inputs=True)[model.output(0)], dtype=np.float32)

        return run


class OpenVinoBfloat16(OpenVino):
    """OpenVINO, in bfloat16 where the processor multiplies it."""

    dtype = "bfloat16"
    most_difference = 0.1
    settings = {"INFERENCE_PRECISION_HINT": "bf16"}  # noqa: RUF012


class OpenVinoInt8(OpenVino):
    """OpenVINO, with weights in int8 by channel and activations quantised as they come, in groups of 128."""

    dtype = "int8"
    most_difference = 0.3
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128}  # noqa: RUF012

    @property
    def form(self) -> str:
        """Differs from that of float32."""
        return f"openvino-int8 {version('openvino')}"

    def change(self, model: Any) -> None:
        """Replace the weights of linear layers by int8 and a scale for each output, which OpenVINO recognises."""
        opset: Any = require("openvino.opset13", extra=self.extra)
        for operation in model.get_ordered_ops():
            if operation.get_type_name() != "MatMul":
                continue
            constant = operation.input(1).get_source_output().get_node()
            if constant.get_type_name() != "Constant" or len(constant.shape) != 2:
                continue
            weights = np.asarray(constant.data, np.float32)
            inner = 1 if operation.get_attributes()["transpose_b"] else 0
            scale = np.abs(weights).max(axis=inner, keepdims=True) / _INT8
            scale[scale == 0] = 1.0  # of outputs that are always zero
            rounded = np.rint(weights / scale).clip(-_INT8, _INT8).astype(np.int8)
            converted = opset.convert(opset.constant(rounded, dtype=np.int8), "f32")
            whole = opset.multiply(converted, opset.constant(scale.astype(np.float32)))
            operation.input(1).replace_source_output(whole.output(0))


def _check_backend(name: str, value: Any) -> None:
    if not (isinstance(value, type) and issubclass(value, Backend)):
        raise InputError(f"the backend {name!r} must be a subclass of hyperseek.models.Backend, not {shown(value)}")


BACKENDS: Registry[type[Backend]] = Registry(
    "backend",
    "hyperseek.backends",
    {
        "onnx": "hyperseek.models.backends:Onnx",
        "onnx-int8": "hyperseek.models.backends:OnnxInt8",
        "openvino": "hyperseek.models.backends:OpenVino",
        "openvino-bfloat16": "hyperseek.models.backends:OpenVinoBfloat16",
        "openvino-int8": "hyperseek.models.backends:OpenVinoInt8",
    },
    check=_check_backend,
)
"""All backends by name."""


@cache
def _core() -> Any:
    """Return OpenVINO's core, one for all models and for good.

    On processors with AMX, its plugin for processors gives the thread another stack for signals, and gives back the
    earlier one when it is unloaded. Several plugins that are unloaded in another order leave one that is gone, and then
    Ctrl-C is a crash.
    """
    return _openvino().Core()


def _openvino() -> Any:
    """Import OpenVINO without its package of usage statistics, which sends to the network when it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    return require("openvino", extra=OpenVino.extra)
