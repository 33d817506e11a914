"""Files: written atomically, verified when read, with errors of this library.

Our safetensors files contain a checksum of their own content in the metadata, so it moves with the file; another tool
that rewrites the file removes it. A file without a checksum is read as it is. Reads are bounded by the file's size.

Every file that is read as JSON, an array or tensors is untrusted: `reading` converts all errors of parsers, including
panics, to errors of this library, and `writing` does the same for errors of the file system.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from hyperseek._bounded import json_value
from hyperseek.errors import DataError, HyperseekError, WriteError, brief, is_panic

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

LARGEST_JSON = 1 << 24
"""Bytes of our JSON files, except for those that grow with a collection."""


_METADATA, _CHECKSUM = "__metadata__", "sha256"
_LARGEST_HEADER = 1 << 25  # names of hundreds of thousands of tensors
_CHUNK = 1 << 20
_ALIGNMENT = 8
_LINE = 64  # bytes of a line of the processor's cache, which new tensors begin with
_SILENT = 2.0  # seconds of waiting for another process before that is said

logger = logging.getLogger(__name__)


@contextmanager
def reading(
    path: str | os.PathLike[str], what: str, *, error: type[HyperseekError] = DataError, remedy: str = ""
) -> Iterator[None]:
    """Convert all errors while a file is read to one error of this library.

    Args:
        path: The file that the block reads, for the message.
        what: The expected kind of file, with its article, as in `"a run record"`.
        error: Class of the error to raise.
        remedy: Advice, as in `"train again with --overwrite"`.

    Yields:
        Nothing.

    Raises:
        HyperseekError: `error`, unless the block itself raised an error of this library, which passes unchanged.
    """
    try:
        yield
    except (HyperseekError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as cause:
        if not isinstance(cause, Exception) and not is_panic(cause):
            raise
        match cause:
            case FileNotFoundError():
                reason = "does not exist"
            case PermissionError():
                reason = "may not be read; check its permissions"
            case IsADirectoryError() | NotADirectoryError():
                reason = f"is not {what}"
            case _:
                reason = f"is damaged, or is not {what} ({type(cause).__name__}: {brief(cause)})"
        raise error(f"{os.fspath(path)} {reason}" + (f"; {remedy}" if remedy else "")) from cause


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Convert errors of a full, read-only, broken or protected disk to `WriteError`, naming `path`.

    Args:
        path: The file or folder that the block writes.

    Yields:
        Nothing.

    Raises:
        WriteError: The operating system refused; errors of other kinds pass unchanged.
    """
    try:
        yield
    except HyperseekError:
        raise
    except Exception as cause:
        # Libraries in Rust, C++ and numpy raise errors of their own without a number, but with the system's message.
        number = getattr(cause, "errno", None)
        text = f"{getattr(cause, 'strerror', None) or ''} {cause}".lower()
        if number in (errno.ENOSPC, errno.EDQUOT) or "no space left" in text or "quota exceeded" in text:
            advice = "the disk is full; make room, then run the same command again"
        elif number == errno.EFBIG or "file too large" in text:
            advice = "the file would be larger than is allowed here (ulimit -f, or the file system's own limit)"
        elif number == errno.EIO or "input/output error" in text:
            advice = "the disk reports an error; choose another place, and check the disk"
        elif number == errno.EROFS or "read-only file system" in text:
            advice = "the file system is read-only; choose another place"
        elif number in (errno.EACCES, errno.EPERM) or "permission denied" in text:
            advice = "you may not write there; check its permissions or choose another place"
        elif number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            advice = "a file stands where a folder should be, or the other way round; choose another place"
        elif number in (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            advice = f"no such file or folder can be made ({os.strerror(number)}); choose another place"
        elif re.search(r"\d+ requested and \d+ written|write error", text):
            advice = "not all of it could be stored; is the disk full, or is there a limit (ulimit -f)?"
        else:
            raise
        raise WriteError(f"{os.fspath(path)} cannot be written: {advice}") from cause


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary sibling of `path` and rename it over `path` when the block ends without an error.

    The data is flushed to disk before the rename, so after a crash `path` holds the whole old or new content.

    Args:
        path: The file to write; missing parent folders are made. A pipe or a device is written into directly.
        mode: `"w"` for UTF-8 text, `"wb"` for bytes.

    Yields:
        The open temporary file.

    Raises:
        WriteError: The disk is full or read-only, or the folder is not writable.
    """
    with writing(path), (_replacement if _replaceable(Path(path)) else _stream)(Path(path), mode) as file:
        yield file


def _replaceable(target: Path) -> bool:
    return not target.exists() or target.is_file() or target.is_dir()


@contextmanager
def _stream(target: Path, mode: str) -> Iterator[IO[Any]]:
    # A pipe or a device, as /dev/stdout, is written into: a rename would replace it by a file.
    with target.open(mode, encoding=None if "b" in mode else "utf-8") as file:
        yield file


@contextmanager
def _replacement(target: Path, mode: str) -> Iterator[IO[Any]]:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as indented JSON with a final newline, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, default=str)
        file.write("\n")


def read_json(
    path: str | os.PathLike[str],
    what: str = "a JSON file",
    *,
    error: type[HyperseekError] = DataError,
    remedy: str = "",
    largest: int = LARGEST_JSON,
) -> Any:
    """Read an untrusted JSON file.

    Args:
        path: The file.
        what: What it should be, with its article, for messages.
        error: Class of the error to raise.
        remedy: What to do about a damaged one.
        largest: Most bytes it may have.

    Returns:
        Its content: plain values, at most 64 levels deep, integers of at most 40 digits, all numbers finite.

    Raises:
        HyperseekError: `error`: it is missing, is not JSON, or exceeds these bounds.
    """
    with reading(path, what, error=error, remedy=remedy):
        check_regular(path)
        # Of duplicate keys the last one counts; a file may have as many brackets as bytes.
        return json_value(bounded_text(Path(path), largest), dict, most_parts=largest)


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for a pipe or a device, which could be waited for without end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("a pipe or a device")


def bounded_text(path: Path, largest: int) -> str:
    """Read a text of at most `largest` bytes of UTF-8; ValueError if it has more."""
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"more than {largest:,} bytes")
    return content.decode("utf-8")


def take_umask(folder: str | os.PathLike[str]) -> None:
    """Set the mode of every file below a folder by the user's umask, whatever library wrote it.

    Some libraries write through temporary files with owner-only access, and keep that mode.

    Args:
        folder: A folder, or a single file.
    """
    mode = 0o666 & ~_umask()
    found = [Path(folder), *Path(folder).rglob("*")]
    for path in found:
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
            with suppress(PermissionError):
                path.chmod(mode)


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock that other processes wait for; after a moment they say so.

    Args:
        path: The file that stands for it.

    Yields:
        Nothing.

    Raises:
        WriteError: The file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_SILENT)
        except Timeout:
            logger.warning("another process holds %s; waiting until it ends", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    # Without this a rename may be lost in a power cut. Windows cannot open folders.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file with its checksum, atomically.

    Args:
        path: The file; missing parent folders are made.
        tensors: By name, on any device.
        metadata: Further strings to keep.

    Raises:
        WriteError: The disk is full or read-only, or the folder is not writable.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, dict(metadata or {}))
    with atomic_write(path, "wb") as file:
        _copy_with_checksum(io.BytesIO(content), file)


def add_checksum(path: str | os.PathLike[str]) -> None:
    """Add a checksum to a safetensors file that another library wrote; the tensors are unchanged."""
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
    """Read a safetensors file, and verify its checksum if it has one.

    Args:
        path: The file.
        what: What it should be, with its article, for messages.
        device: Where to put the tensors.
        error: Class of the error to raise.
        remedy: What to do about a damaged one.

    Returns:
        The tensors by name, and the strings beside them. Memory is aligned as that of new tensors is: on some
        processors products of the same numbers at other addresses are rounded otherwise.

    Raises:
        HyperseekError: `error`: the file is missing, is damaged, or is of another kind.
    """
    from safetensors import safe_open

    check_checksum(path, what, error=error, remedy=remedy)
    with reading(path, what, error=error, remedy=remedy), safe_open(path, framework="pt", device=str(device)) as file:
        metadata = dict(file.metadata() or {})
        metadata.pop(_CHECKSUM, None)
        return {name: _aligned(file.get_tensor(name)) for name in file.keys()}, metadata  # noqa: SIM118 (no mapping)


def _aligned(tensor: Tensor) -> Tensor:
    return tensor if tensor.data_ptr() % _LINE == 0 else tensor.clone()


def check_checksum(
    path: str | os.PathLike[str],
    what: str = "a file of tensors",
    *,
    error: type[HyperseekError] = DataError,
    remedy: str = "",
) -> None:
    """Raise `error` if a safetensors file does not match its checksum; a file without one passes."""
    with reading(path, what, error=error, remedy=remedy):
        check_regular(path)
        with Path(path).open("rb") as file:
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
        check_regular(path)
        # The header is checked against the size of the file before memory is allocated.
        array: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive, not an array")
        if array.dtype.kind not in kinds or dimensions not in (None, array.ndim):
            raise ValueError(f"{array.dtype} of shape {array.shape}")
    return array


def new_array(path: str | os.PathLike[str], dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Create a memory-mapped `.npy` file, with all its space allocated on disk.

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
        # A sparse mapped file kills the process if the disk is full when a hole is filled.
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

    # The checksum has a fixed length, so its place can be reserved.
    target.write(encoded("0" * hashlib.sha256().digest_size * 2))
    digest = _digest(header, source, target)
    target.seek(0)
    target.write(encoded(digest))
    target.seek(0, io.SEEK_END)
