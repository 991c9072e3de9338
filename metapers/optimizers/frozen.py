"""Parameters that the outer loop never moves."""

import optax

from metapers.members import Member


def frozen() -> optax.GradientTransformation:
    """No step at all."""
    return optax.set_to_zero()


FROZEN = Member(frozen, doc="parameters stay as they are")
