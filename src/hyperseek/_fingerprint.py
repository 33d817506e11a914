"""Content fingerprints: the same bytes give the same short name, on every machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_LENGTH = 32  # hexadecimal digits: 128 bits


def fingerprint_json(value: Any) -> str:
    """Fingerprint plain values; the order of mapping keys does not matter."""
    return _digest([json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()])


def fingerprint_texts(texts: Iterable[str]) -> str:
    """Fingerprint a sequence of texts; order and borders matter."""

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


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:_LENGTH]
