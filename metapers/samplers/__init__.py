"""Which training users have a task in an outer step."""

from metapers.members import registry
from metapers.options import Option
from metapers.samplers.each_user_once import EACH_USER_ONCE, SINGLE_PASS
from metapers.samplers.each_user_once import each_user_once as each_user_once
from metapers.samplers.each_user_once import single_pass as single_pass
from metapers.samplers.glances import glances as glances
from metapers.samplers.poisson import POISSON
from metapers.samplers.poisson import poisson as poisson
from metapers.samplers.with_replacement import WITH_REPLACEMENT
from metapers.samplers.with_replacement import with_replacement as with_replacement

MEMBERS = registry("sampler", "which training users have a task in an outer step")
MEMBERS.common = {"glances": Option(1, least=1, doc="outer steps in a row that have the same batch")}
MEMBERS.add(with_replacement=WITH_REPLACEMENT, each_user_once=EACH_USER_ONCE, poisson=POISSON, single_pass=SINGLE_PASS)
