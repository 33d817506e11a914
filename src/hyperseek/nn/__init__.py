"""Torch modules, one concept per file. They work on tensors, not on texts or files; models are composed of them."""
