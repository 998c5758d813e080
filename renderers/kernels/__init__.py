"""Fused implementations of what the plain-torch references of :mod:`renderers` specify. Imported when first used."""
