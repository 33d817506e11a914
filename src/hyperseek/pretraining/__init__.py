"""Pre-training: an encoder learns to predict masked tokens of any texts, before it learns to retrieve.

```python
record = pretrain(read_pretrain_recipe("mlm-tiny-pydocs"), output="encoder")
retriever = hyperseek.load("encoder")
```
"""

from hyperseek.pretraining._masking import Masker
from hyperseek.pretraining._model import build_masked_lm, save_encoder
from hyperseek.pretraining._recipe import (
    EncoderConfig,
    MaskingConfig,
    PretrainConfig,
    PretrainRecipe,
    PretrainValidationConfig,
    TextConfig,
    TextSourceConfig,
    VocabularyConfig,
    read_pretrain_recipe,
)
from hyperseek.pretraining._run import pretrain
from hyperseek.pretraining._texts import TextSource, open_texts
from hyperseek.pretraining._token_cache import TokenCache, TokenRows, token_cache
from hyperseek.pretraining._vocabulary import get_tokenizer, make_tokenizer

__all__ = [
    "EncoderConfig",
    "Masker",
    "MaskingConfig",
    "PretrainConfig",
    "PretrainRecipe",
    "PretrainValidationConfig",
    "TextConfig",
    "TextSource",
    "TextSourceConfig",
    "TokenCache",
    "TokenRows",
    "VocabularyConfig",
    "build_masked_lm",
    "get_tokenizer",
    "make_tokenizer",
    "open_texts",
    "pretrain",
    "read_pretrain_recipe",
    "save_encoder",
    "token_cache",
]
