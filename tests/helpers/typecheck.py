"""The type checker that the tests run every function under: shapes by jaxtyping, the rest by beartype."""

from beartype import BeartypeConf, beartype

# A whole number is a fine float, as PEP 484 says.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
