"""Torch modules, one concept a file. They know tensors, not texts and not files; models are made of them."""
