"""The type checker of all functions in tests: jaxtyping checks shapes, beartype the other annotations."""

from beartype import BeartypeConf, beartype

# Accept int where float is annotated (PEP 484).
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
