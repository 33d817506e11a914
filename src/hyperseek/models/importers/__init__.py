"""Files of the original systems: checkpoints and encoded corpora."""
