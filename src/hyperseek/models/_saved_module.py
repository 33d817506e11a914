"""What our sentence-transformers modules save and load alike."""

from __future__ import annotations

import os
from typing import Any, Self

from sentence_transformers.base.modules import Module

_WHERE = ("subfolder", "token", "cache_folder", "revision", "local_files_only")


class SavedModule(Module):
    """Base of modules whose folder holds the arguments they are made from and, where they have any, their weights."""

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write configuration and weights into a folder; weights as safetensors, whatever is asked for."""
        os.makedirs(output_path, exist_ok=True)
        self.save_config(output_path)
        if self.state_dict():
            self.save_torch_weights(output_path, safe_serialization=True)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:  # type: ignore[override]  # places by name only
        """Read configuration and weights from a folder or a Hub repository; every tensor must fit."""
        module: Self = super().load(model_name_or_path, **kwargs)
        if module.state_dict():
            where = {name: kwargs[name] for name in _WHERE if name in kwargs}
            cls.load_torch_weights(model_name_or_path, model=module, **where)
        return module
