"""Arrays and tensors on disk: what is written carries a checksum, and what is read is bounded by the size of its file.

A safetensors file of ours holds a checksum of its own content among its metadata, so it goes wherever the file goes,
and another tool that writes the file anew takes it out. A file without one is read as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from hyperseek._files import atomic_write, reading, writing
from hyperseek.errors import DataError, HyperseekError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

_METADATA, _CHECKSUM = "__metadata__", "sha256"
_LARGEST_HEADER = 1 << 25  # names of hundreds of thousands of tensors
_CHUNK = 1 << 20
_ALIGNMENT = 8


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file with its checksum, atomically.

    Args:
        path: The file; missing parent folders are made.
        tensors: By name, on any device.
        metadata: Further strings to keep.

    Raises:
        WriteError: The disk is full or read-only, or the folder is not ours to write to.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, dict(metadata or {}))
    with atomic_write(path, "wb") as file:
        _copy_with_checksum(io.BytesIO(content), file)


def add_checksum(path: str | os.PathLike[str]) -> None:
    """Write a checksum into a safetensors file that another library wrote; the tensors stay what they are."""
    with Path(path).open("rb") as source, atomic_write(path, "wb") as file:
        _copy_with_checksum(source, file)


def read_tensors(
    path: str | os.PathLike[str],
    what: str = "a file of tensors",
    *,
    device: str | torch.device = "cpu",
    error: type[HyperseekError] = DataError,
    remedy: str = "",
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file, and see that it is what was written where it says so.

    Args:
        path: The file.
        what: What it should be, with its article, for messages.
        device: Where to put the tensors.
        error: Class of the error to raise.
        remedy: What to do about a damaged one.

    Returns:
        The tensors by name, and the strings beside them.

    Raises:
        HyperseekError: `error`: the file is missing, is damaged, or is of another kind.
    """
    from safetensors import safe_open

    check_checksum(path, what, error=error, remedy=remedy)
    with reading(path, what, error=error, remedy=remedy), safe_open(path, framework="pt", device=str(device)) as file:
        metadata = dict(file.metadata() or {})
        metadata.pop(_CHECKSUM, None)
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (no mapping)


def check_checksum(
    path: str | os.PathLike[str],
    what: str = "a file of tensors",
    *,
    error: type[HyperseekError] = DataError,
    remedy: str = "",
) -> None:
    """Raise `error` where a safetensors file is not what its checksum says; a file without one passes."""
    with reading(path, what, error=error, remedy=remedy), Path(path).open("rb") as file:
        header = _header(file)
        recorded = header.get(_METADATA, {}).get(_CHECKSUM)
        if recorded is not None and recorded != _digest(header, file):
            raise error(
                f"{os.fspath(path)} is damaged: its content is not what was written, by its checksum"
                + (f"; {remedy}" if remedy else "")
            )


def read_array(
    path: str | os.PathLike[str],
    what: str = "an array",
    *,
    kinds: str = "biuf",
    dimensions: int | None = None,
    mode: Literal["r", "r+", "c"] = "r",
    error: type[HyperseekError] = DataError,
    remedy: str = "",
) -> NDArray[Any]:
    """Map a `.npy` file into memory.

    Args:
        path: The file.
        what: What it should be, with its article, for messages.
        kinds: Which kinds of numbers it may hold, as numpy's `dtype.kind`.
        dimensions: How many it must have; None takes any number.
        mode: `"r"`, `"r+"` to write into the file, `"c"` to write into memory only.
        error: Class of the error to raise.
        remedy: What to do about a damaged one.

    Returns:
        The array.

    Raises:
        HyperseekError: `error`: the file is missing, is damaged, or holds something else.
    """
    import numpy as np

    with reading(path, what, error=error, remedy=remedy):
        # What the header says is held against the size of the file before memory is taken.
        array: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive, not an array")
        if array.dtype.kind not in kinds or dimensions not in (None, array.ndim):
            raise ValueError(f"{array.dtype} of shape {array.shape}")
    return array


def new_array(path: str | os.PathLike[str], dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Make a `.npy` file, mapped into memory, with all its room on the disk.

    Args:
        path: The file; it is replaced.
        dtype: Of its numbers.
        shape: Of the array.

    Returns:
        The array, full of zeros.

    Raises:
        WriteError: There is no room for it.
    """
    import numpy as np

    with writing(path):
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        # A mapped file has holes, and a hole that finds no room when it is filled kills the process.
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, os.fstat(file.fileno()).st_size))
    return array


def _header(file: IO[bytes]) -> dict[str, Any]:
    size = int.from_bytes(file.read(8), "little")
    if not 2 <= size <= _LARGEST_HEADER:
        raise ValueError(f"a header of {size:,} bytes")
    header = json.loads(file.read(size))
    if not isinstance(header, dict) or not isinstance(header.get(_METADATA, {}), dict):
        raise ValueError("no header of named tensors")
    return header


def _digest(header: Mapping[str, Any], file: IO[bytes], copy: IO[bytes] | None = None) -> str:
    """Hash a header without its checksum and the rest of an open file, which goes to `copy` as it is read."""
    metadata = {key: value for key, value in header.get(_METADATA, {}).items() if key != _CHECKSUM}
    digest = hashlib.sha256(json.dumps({**header, _METADATA: metadata}, sort_keys=True).encode())
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        if copy is not None:
            copy.write(chunk)
    return digest.hexdigest()


def _copy_with_checksum(source: IO[bytes], target: IO[bytes]) -> None:
    header = _header(source)

    def encoded(checksum: str) -> bytes:
        metadata = {**header.get(_METADATA, {}), _CHECKSUM: checksum}
        body = json.dumps({**header, _METADATA: metadata}, separators=(",", ":")).encode()
        body += b" " * (-len(body) % _ALIGNMENT)
        return len(body).to_bytes(8, "little") + body

    # The checksum has one length, so its place can be kept free.
    target.write(encoded("0" * hashlib.sha256().digest_size * 2))
    digest = _digest(header, source, target)
    target.seek(0)
    target.write(encoded(digest))
    target.seek(0, io.SEEK_END)
