"""Hyperbolic encoders (HypRAG): a lifted head over any trunk, and a transformer that never leaves the hyperboloid."""
