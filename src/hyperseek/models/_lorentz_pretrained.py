"""What the fully hyperbolic models have in common: how weights start, and that none is missing after loading."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hyperseek._errors import ModelError
from hyperseek.models._lorentz_encoder_config import LorentzEncoderConfig
from hyperseek.nn.lorentz import LorentzMLR, LorentzRadiusFactor

logger = logging.getLogger(__name__)

_POOLER = "pooler."


class LorentzPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers wraps subclasses
    """Base of `LorentzEncoder` and `LorentzForMaskedLM`."""

    config_class = LorentzEncoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LorentzBlock"]  # noqa: RUF012  # as the base class declares it
    # A curvature rounded to half precision is another space.
    _keep_in_fp32_modules_strict = {"curvature"}  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, LorentzMLR):
            module.reset_parameters()
        elif isinstance(module, LorentzRadiusFactor):
            # Children come first: the linear map in it has just been drawn.
            nn.init.zeros_(module.linear.weight)
            nn.init.zeros_(module.linear.bias)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Load a model whose every weight is in the checkpoint, and that every tensor of it goes into.

        Args:
            pretrained_model_name_or_path: As for every model of transformers, like all that follow.
            *args: See there.
            output_loading_info: See there.
            **kwargs: See there.

        Returns:
            The model. An encoder also loads from a model of masked tokens; a pooling with weights of its own that the
            checkpoint has not starts new.

        Raises:
            ModelError: The checkpoint lacks tensors, or has some that fit nowhere.
        """
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except RuntimeError as error:
            raise ModelError(f"{pretrained_model_name_or_path} does not fit its config.json: {error}") from error
        model, info = loaded
        missing = sorted(info["missing_keys"])
        fresh = [name for name in missing if name.startswith(_POOLER)]
        if fresh:
            logger.info("%s has no weights of the pooling; it starts new", pretrained_model_name_or_path)
        faults = {
            "lacks": [name for name in missing if name not in fresh],
            "has tensors that fit nowhere:": sorted(info["unexpected_keys"]),
        }
        for what, names in faults.items():
            if names:
                raise ModelError(
                    f"{pretrained_model_name_or_path} {what} {', '.join(names[:5])}"
                    f"{f' and {len(names) - 5} more' if len(names) > 5 else ''}; is it a checkpoint of {cls.__name__}?"
                )
        return (model, info) if output_loading_info else model
