"""The sum over all tasks, new and remembered ones alike."""

from collections.abc import Mapping

from metapers.base import Key, Params, Tree, Update
from metapers.members import Member


def sum_all() -> Update:
    """All sources are one batch, and the aggregator's gradient of it is the direction (experience replay).

    So a user's tasks are summed over all sources, and a bound on a user's gradient holds over all of them. No state.
    Chaudhry et al. 2019 (arXiv:1902.10486).
    """

    def combine(
        state: Tree, grads: Mapping[tuple[str, str], Params], params: Params, key: Key
    ) -> tuple[Tree, Params, dict]:
        return state, grads["all", "here"], {}

    return Update(lambda params: {}, lambda state, params: {"here": params}, combine)


SUM = Member(
    sum_all,
    paper="Chaudhry et al. 2019, arXiv:1902.10486",
    doc="the gradient of all tasks in one batch, new and remembered ones alike",
)
