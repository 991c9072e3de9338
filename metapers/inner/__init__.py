"""How one user adapts."""

from metapers.inner.gated import LEARNED
from metapers.inner.gated import gated as gated
from metapers.inner.gradient import GRADIENT
from metapers.inner.gradient import gradient as gradient
from metapers.inner.implicit import IMPLICIT
from metapers.inner.implicit import implicit as implicit
from metapers.inner.keep_if_it_helps import CROSS_VALIDATED
from metapers.inner.keep_if_it_helps import keep_if_it_helps as keep_if_it_helps
from metapers.inner.keep_if_it_moves import MIN_SHIFT
from metapers.inner.keep_if_it_moves import keep_if_it_moves as keep_if_it_moves
from metapers.inner.none import none as none
from metapers.inner.optimized import OPTIMIZED
from metapers.inner.optimized import optimized as optimized
from metapers.inner.optimizers import INNER_OPTIMIZERS
from metapers.inner.rates import RATES
from metapers.inner.rates import log_per_parameter as log_per_parameter
from metapers.inner.rates import per_parameter as per_parameter
from metapers.inner.rates import per_step as per_step
from metapers.inner.tempered import tempered as tempered
from metapers.inner.written import CLOSED_FORM
from metapers.inner.written import written as written
from metapers.members import registry

MEMBERS = registry("inner_loop", "how one user adapts")
MEMBERS.add(gradient=GRADIENT, optimized=OPTIMIZED, implicit=IMPLICIT, closed_form=CLOSED_FORM)
registry("rates", "how far an inner step goes").add(**RATES)
registry("inner_optimizer", "an optimizer of inner steps").add(**INNER_OPTIMIZERS)
registry("gate", "whether, and how far, a user adapts").add(
    cross_validated=CROSS_VALIDATED, min_shift=MIN_SHIFT, learned=LEARNED
)
