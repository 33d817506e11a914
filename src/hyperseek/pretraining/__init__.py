"""Pre-training: an encoder learns to predict masked tokens of any texts before it learns to retrieve.

```python
record = pretrain(read_pretrain_recipe("mlm-tiny-pydocs"), output="encoder")
retriever = hyperseek.load("encoder")
```
"""

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

__all__ = [
    "EncoderConfig",
    "MaskingConfig",
    "PretrainConfig",
    "PretrainRecipe",
    "PretrainValidationConfig",
    "TextConfig",
    "TextSourceConfig",
    "VocabularyConfig",
    "pretrain",
    "read_pretrain_recipe",
]
