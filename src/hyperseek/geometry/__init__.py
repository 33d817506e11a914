"""Pure tensor functions of the geometries points live in: torch only, no modules, no I/O."""

from hyperseek.geometry._euclidean import cosine_similarity, inner_product, negative_distance, unit_vectors

__all__ = ["cosine_similarity", "inner_product", "negative_distance", "unit_vectors"]
