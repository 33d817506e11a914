"""Pure tensor functions of the geometries points live in: torch only, no modules, no I/O."""

from hyperseek.geometry._cones import exterior_angle, half_aperture
from hyperseek.geometry._euclidean import cosine_similarity, inner_product, negative_distance, unit_vectors
from hyperseek.geometry._hyperbolic import (
    POLAR_EXTRA,
    ball_centres,
    half_chord,
    half_chord_own,
    lorentz_to_polar,
    poincare_to_polar,
    polar_to_lorentz,
    polar_to_poincare,
    split_polar,
)
from hyperseek.geometry._lifts import balanced_documents, balanced_queries, paraboloid_documents, paraboloid_queries
from hyperseek.geometry._muvera import TokenEncoding
from hyperseek.geometry._ragged import ragged_blocks

__all__ = [
    "POLAR_EXTRA",
    "TokenEncoding",
    "balanced_documents",
    "balanced_queries",
    "ball_centres",
    "cosine_similarity",
    "exterior_angle",
    "half_aperture",
    "half_chord",
    "half_chord_own",
    "inner_product",
    "lorentz_to_polar",
    "negative_distance",
    "paraboloid_documents",
    "paraboloid_queries",
    "poincare_to_polar",
    "polar_to_lorentz",
    "polar_to_poincare",
    "ragged_blocks",
    "split_polar",
    "unit_vectors",
]
