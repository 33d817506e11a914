"""Pure tensor functions of the geometries points live in: torch only, no modules, no I/O."""

from hyperseek.geometry._charts import klein_to_lorentz, lorentz_to_klein, lorentz_to_poincare, poincare_to_lorentz
from hyperseek.geometry._cones import exterior_angle, half_aperture
from hyperseek.geometry._euclidean import cosine_similarity, inner_product, negative_distance, unit_vectors
from hyperseek.geometry._hyperbolic import (
    POLAR_EXTRA,
    ball_centres,
    chord_distance,
    half_chord,
    half_chord_own,
    lorentz_to_polar,
    poincare_to_polar,
    polar_to_lorentz,
    polar_to_poincare,
    split_polar,
)
from hyperseek.geometry._lifts import balanced_documents, balanced_queries, paraboloid_documents, paraboloid_queries
from hyperseek.geometry._lorentz import (
    lorentz_distance,
    lorentz_distance_matrix,
    lorentz_from_space,
    lorentz_inner,
    lorentz_inner_matrix,
    lorentz_normalise,
    lorentz_project,
    lorentz_squared_distance_matrix,
)
from hyperseek.geometry._lorentz_maps import (
    lorentz_expmap,
    lorentz_expmap0,
    lorentz_logmap,
    lorentz_logmap0,
    lorentz_transport,
)
from hyperseek.geometry._midpoints import (
    einstein_midpoint,
    lorentz_centroid,
    outward_einstein_midpoint,
    outward_weights,
)
from hyperseek.geometry._muvera import TokenEncoding
from hyperseek.geometry._poincare import (
    mobius_add,
    poincare_conformal_factor,
    poincare_distance,
    poincare_distance_matrix,
    poincare_expmap0,
    poincare_logmap0,
    poincare_project,
)
from hyperseek.geometry._ragged import ragged_blocks

__all__ = [
    "POLAR_EXTRA",
    "TokenEncoding",
    "balanced_documents",
    "balanced_queries",
    "ball_centres",
    "chord_distance",
    "cosine_similarity",
    "einstein_midpoint",
    "exterior_angle",
    "half_aperture",
    "half_chord",
    "half_chord_own",
    "inner_product",
    "klein_to_lorentz",
    "lorentz_centroid",
    "lorentz_distance",
    "lorentz_distance_matrix",
    "lorentz_expmap",
    "lorentz_expmap0",
    "lorentz_from_space",
    "lorentz_inner",
    "lorentz_inner_matrix",
    "lorentz_logmap",
    "lorentz_logmap0",
    "lorentz_normalise",
    "lorentz_project",
    "lorentz_squared_distance_matrix",
    "lorentz_to_klein",
    "lorentz_to_poincare",
    "lorentz_to_polar",
    "lorentz_transport",
    "mobius_add",
    "negative_distance",
    "outward_einstein_midpoint",
    "outward_weights",
    "paraboloid_documents",
    "paraboloid_queries",
    "poincare_conformal_factor",
    "poincare_distance",
    "poincare_distance_matrix",
    "poincare_expmap0",
    "poincare_logmap0",
    "poincare_project",
    "poincare_to_lorentz",
    "poincare_to_polar",
    "polar_to_lorentz",
    "polar_to_poincare",
    "ragged_blocks",
    "split_polar",
    "unit_vectors",
]
