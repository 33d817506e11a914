"""Hyperbolic encoders (HypRAG): a lift on top of any trunk, and a transformer that never leaves the hyperboloid."""
