"""Retrievers: loading, building, saving, and importing other systems' checkpoints."""

import importlib.util
import sys

if importlib.util.find_spec("peft") and not importlib.util.find_spec("accelerate"):
    # transformers imports peft wherever it is found, and peft cannot be imported without accelerate.
    sys.modules["peft"] = None  # type: ignore[assignment]

from hyperseek.models._build import LinearHeadConfig, ModelConfig, QNetConfig, build
from hyperseek.models._hypencoder import import_hypencoder
from hyperseek.models._hyprag import import_hyprag, is_hyprag, read_hyprag
from hyperseek.models._late import LateRetriever
from hyperseek.models._load import load, resolve_name
from hyperseek.models._lorentz_config import LorentzConfig
from hyperseek.models._lorentz_encoder import LorentzEncoder, LorentzEncoderOutput
from hyperseek.models._lorentz_encoder_config import LorentzEncoderConfig
from hyperseek.models._lorentz_head import LorentzHead
from hyperseek.models._lorentz_masked_lm import LorentzForMaskedLM
from hyperseek.models._lorentz_points import LorentzPoints
from hyperseek.models._lorentz_transformer import LorentzPooling, LorentzTransformer
from hyperseek.models._qnet_head import QNetHead
from hyperseek.models._retriever import Retriever

__all__ = [
    "LateRetriever",
    "LinearHeadConfig",
    "LorentzConfig",
    "LorentzEncoder",
    "LorentzEncoderConfig",
    "LorentzEncoderOutput",
    "LorentzForMaskedLM",
    "LorentzHead",
    "LorentzPoints",
    "LorentzPooling",
    "LorentzTransformer",
    "ModelConfig",
    "QNetConfig",
    "QNetHead",
    "Retriever",
    "build",
    "import_hypencoder",
    "import_hyprag",
    "is_hyprag",
    "load",
    "read_hyprag",
    "resolve_name",
]
