"""Models with levels: several hyperbolic points per text, from the broadest to the narrowest."""
