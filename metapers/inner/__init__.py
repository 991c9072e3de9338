"""How one user adapts."""

from metapers.inner.gradient import gradient as gradient
from metapers.inner.none import none as none
