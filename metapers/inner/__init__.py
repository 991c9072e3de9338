"""How one user adapts."""

from metapers.inner.gated import gated as gated
from metapers.inner.gradient import gradient as gradient
from metapers.inner.implicit import implicit as implicit
from metapers.inner.keep_if_it_helps import keep_if_it_helps as keep_if_it_helps
from metapers.inner.keep_if_it_moves import keep_if_it_moves as keep_if_it_moves
from metapers.inner.none import none as none
from metapers.inner.optimized import optimized as optimized
from metapers.inner.rates import log_per_parameter as log_per_parameter
from metapers.inner.rates import per_parameter as per_parameter
from metapers.inner.rates import per_step as per_step
from metapers.inner.tempered import tempered as tempered
from metapers.inner.written import written as written
