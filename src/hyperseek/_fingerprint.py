"""Content fingerprints: the same bytes give the same short name, on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_LENGTH = 32  # hexadecimal digits: 128 bits

# Modules whose weights were fingerprinted: their state at that time, and its fingerprint.
_of_modules: weakref.WeakKeyDictionary[nn.Module, tuple[object, str]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
# Numbers of a row of sums: long rows and long columns are summed fastest.
_ROW = 4096


def fingerprint_json(value: Any) -> str:
    """Fingerprint plain values; the order of mapping keys does not matter."""
    return _digest([json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()])


def fingerprint_texts(texts: Iterable[str]) -> str:
    """Fingerprint a sequence of texts; order and boundaries matter."""

    def parts() -> Iterable[bytes]:
        for text in texts:
            encoded = text.encode()
            yield len(encoded).to_bytes(8, "little")
            yield encoded

    return _digest(parts())


def fingerprint_file(path: str | os.PathLike[str]) -> str:
    """Fingerprint the bytes of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_LENGTH]


def fingerprint_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Fingerprint named tensors by name, dtype, shape and bytes; the order of the pairs does not matter."""
    import torch

    def parts() -> Iterable[bytes]:
        for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
            yield f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode()
            yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return _digest(parts())


def fingerprint_weights(module: nn.Module) -> str:
    """Fingerprint a module's tensors, by name; each state is hashed only once.

    Changes are detected by torch's version counter and by sums over the bits, which take a tenth of the time of a hash:
    torch does not count writes through `parameter.data` or a numpy view.

    Args:
        module: Any module.

    Returns:
        The same as `fingerprint_tensors` of its state.
    """
    tensors = dict(module.state_dict())
    state = [(name, _state(tensor)) for name, tensor in tensors.items()]
    with _lock:
        known = _of_modules.get(module)
    if known is not None and known[0] == state:
        return known[1]
    named = fingerprint_tensors(tensors.items())
    with _lock:
        _of_modules[module] = (state, named)
    return named


def _state(tensor: Tensor) -> tuple[object, ...]:
    """Return values that identify a tensor and change when it is written to."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tuple(tensor.shape), _digest(_sums(tensor))


def _sums(tensor: Tensor) -> Iterable[bytes]:
    """Sum a tensor's bits along rows and columns, so that swapped values are detected as well as changed ones."""
    import torch

    flat = tensor.detach().contiguous().reshape(-1)
    aligned = flat.nbytes % 8 == 0 and flat.storage_offset() * flat.itemsize % 8 == 0
    bits = flat.view(torch.int64 if aligned else torch.uint8)
    whole = len(bits) - len(bits) % _ROW
    rows = bits[:whole].view(-1, _ROW)
    for part in (rows.sum(dim=0, dtype=torch.int64), rows.sum(dim=1, dtype=torch.int64), bits[whole:]):
        yield part.cpu().numpy().tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:_LENGTH]
