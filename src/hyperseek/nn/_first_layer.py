"""A trunk whose first layer reads a whole sequence, and whose others read what its attention chooses.

Hooks on the layers shorten the states, positions and masks that pass from the first layer to the second.

Shapes: `B` texts, `T` tokens of the longest, `T'` of the longest after shortening, `h` width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hyperseek.errors import InputError, ModelError

_STATES = ("hidden_states",)


def layers_of(encoder: Any) -> nn.ModuleList:
    """Return the layers of a trunk in order; InputError if they cannot be told, or there is only one."""
    count = int(getattr(encoder.config, "num_hidden_layers", 0))
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count > 1:
            return module
    raise InputError(
        f"the layers of a {type(encoder).__name__} cannot be identified, or there is only one, so its first layer "
        f"cannot choose tokens; prune by idf or gate"
    )


@contextmanager
def shortened_behind_first(
    encoder: Any, length: int, choose: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Let the first layer read `length` tokens, and later layers those that `choose(attention)` keeps.

    Args:
        encoder: The trunk.
        length: `T`.
        choose: From the first layer's `(B, heads, T, T)` attention to the `(B, T')` positions that are kept, and
            which of them are no padding.

    Yields:
        Nothing.

    Raises:
        InputError: As `layers_of`.
        ModelError: The first layer does not return its attention.
    """
    first, *others = layers_of(encoder)
    chosen: list[tuple[Tensor, Tensor]] = []
    attention: list[Tensor] = []
    implementation = encoder.config._attn_implementation
    # Without padding, a decoder is given no mask, and what computes its attention adds the causal one; eager does not.
    causal = any(getattr(module, "is_causal", False) for module in first.modules())

    def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if causal and len(args) == 1 and kwargs.get("attention_mask") is None:
            kwargs = {**kwargs, "attention_mask": _earlier(length, args[0].device)}
        encoder.config._attn_implementation = "eager"  # the other implementations do not return attention weights
        number = (args[0] if args else kwargs["hidden_states"]).dtype
        return (
            tuple(_additive(value, number) for value in args),
            {name: _additive(value, number) for name, value in kwargs.items()},
        )

    def note(_: Any, __: Any, output: Any) -> None:
        parts = output if isinstance(output, tuple) else ()
        attention.extend(
            part for part in parts if isinstance(part, Tensor) and part.ndim == 4 and part.shape[-1] == length
        )

    def cut(_: Any, __: Any, output: Any) -> Any:
        encoder.config._attn_implementation = implementation
        if not attention:
            raise ModelError(
                f"the first layer of a {type(encoder).__name__} does not return its attention; prune by idf or gate"
            )
        chosen.append(choose(attention[0]))
        if isinstance(output, tuple):
            return (_taken(output[0], chosen[0][0]), *output[1:])
        return _taken(output, chosen[0][0])

    def shorten(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        places, there = chosen[0]
        rest = [_fitted(value, places, there, length) for value in args[1:]]
        named = {name: _fitted(value, places, there, length) for name, value in kwargs.items() if name not in _STATES}
        if "attention_mask" in named or not rest:
            named["attention_mask"] = _mask(named.get("attention_mask"), there, causal)
        else:
            rest[0] = _mask(rest[0], there, causal)
        states = {name: kwargs[name] for name in _STATES if name in kwargs}  # shortened by the layer before
        return (*args[:1], *rest), {**states, **named}

    hooks = [first.register_forward_pre_hook(look, with_kwargs=True), first.register_forward_hook(cut)]
    hooks += [module.register_forward_hook(note) for module in first.modules() if module is not first]
    hooks += [layer.register_forward_pre_hook(shorten, with_kwargs=True) for layer in others]
    try:
        yield
    finally:
        encoder.config._attn_implementation = implementation
        for hook in hooks:
            hook.remove()


def _additive(value: Any, number: torch.dtype) -> Any:
    """Return an additive mask, as eager attention needs it, in the dtype of the states, which it would change."""
    if not isinstance(value, Tensor) or value.dtype != torch.bool or value.ndim != 4:
        return value
    return torch.zeros(value.shape, dtype=number, device=value.device).masked_fill(~value, torch.finfo(number).min)


def _taken(states: Tensor, places: Tensor) -> Tensor:
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def _fitted(value: Any, places: Tensor, there: Tensor, length: int) -> Any:
    """Return a layer's argument (mask, positions or rotations) for the tokens that are kept."""
    if isinstance(value, tuple):
        return tuple(_fitted(part, places, there, length) for part in value)
    if not isinstance(value, Tensor) or value.ndim not in (2, 3, 4):
        return value
    rows = len(places)
    if value.ndim < 4:
        if value.shape[1] != length:
            return value
        wide = value.expand(rows, *value.shape[1:])
        return wide.gather(1, places) if value.ndim == 2 else _taken(wide, places)
    if value.shape[-1] != length:
        return value
    wide = value.expand(rows, *value.shape[1:])
    if wide.shape[2] == length:
        wide = wide.gather(2, places[:, None, :, None].expand(-1, wide.shape[1], -1, length))
    return wide.gather(3, places[:, None, None, :].expand(-1, *wide.shape[1:3], -1))


def _earlier(length: int, device: torch.device) -> Tensor:
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()


def _mask(mask: Tensor | None, there: Tensor, causal: bool) -> Tensor | None:
    """Return the mask with padding masked out as well."""
    wanted, length = there[:, None, None, :], there.shape[1]
    if mask is None:
        if bool(there.all()):
            return None
        whole = wanted.expand(-1, -1, length, -1)
        return whole & _earlier(length, there.device) if causal else whole
    if mask.ndim != 4:
        return mask
    return mask & wanted if mask.dtype == torch.bool else mask.masked_fill(~wanted, torch.finfo(mask.dtype).min)
