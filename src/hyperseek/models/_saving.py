"""Saving a model so that it is there whole, readable by whom the user's umask says, and its weights have checksums."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sentence_transformers import SentenceTransformer

from hyperseek._files import take_umask, writing
from hyperseek._tensors import add_checksum


def save_model(model: SentenceTransformer, path: str | os.PathLike[str]) -> None:
    """Write a model into a folder that may hold other things.

    Args:
        model: The container.
        path: The folder; files of an earlier model in it are replaced, one by one.

    Raises:
        WriteError: The disk is full or read-only, or the folder is not ours to write to.
    """
    target = Path(path)
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as temporary:
            model.save(temporary, create_model_card=False)
            move_saved(Path(temporary), target)


def move_saved(source: Path, target: Path) -> None:
    """Move what other libraries saved into a folder, with checksums in its weights and modes by the umask."""
    take_umask(source)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for file in files:
        if file.suffix == ".safetensors":
            add_checksum(file)
    for file in files:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
