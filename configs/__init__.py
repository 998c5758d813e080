"""The experiments and the parts they are composed of."""
