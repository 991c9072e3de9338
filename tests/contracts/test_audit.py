"""Every public member of a wing stands in the table of contracts, or in its exclusions with a reason."""

import inspect
from types import ModuleType

import pytest

from metapers import aggregate, inner, learners, memory, models, penalties, tasks
from tests.contracts import table

WINGS: list[tuple[ModuleType, table.Rows]] = [
    (learners, table.LEARNERS),
    (inner, table.INNER_LOOPS),
    (penalties, table.PENALTIES),
    (memory, table.MEMORIES),
    (aggregate, table.AGGREGATORS),
    (models, table.MODELS),
    (tasks, table.FAMILIES),
]


def members(wing: ModuleType) -> list[str]:
    """The names that a wing's ``__init__`` re-exports, its modules aside."""
    return [name for name, value in vars(wing).items() if not name.startswith("_") and not inspect.ismodule(value)]


def rows(table_rows: table.Rows) -> set[str]:
    """The members that rows are about: "ewc, sampled" is about ewc."""
    return {name.split(",")[0] for name, _ in table_rows}


@pytest.mark.parametrize(("wing", "table_rows"), WINGS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_member_is_in_the_table_or_excluded(wing, table_rows):
    short = wing.__name__.removeprefix("metapers.")
    found, excluded = set(members(wing)), {name for name in table.EXCLUDED if name.startswith(short + ".")}
    assert found, "a wing without members would pass for nothing"
    missing = {name for name in found - rows(table_rows) if f"{short}.{name}" not in excluded}
    assert not missing, f"no row in tests/contracts/table.py for {sorted(missing)}"
    gone = rows(table_rows) - found | {name for name in excluded if name.removeprefix(short + ".") not in found}
    assert not gone, f"the table names what {wing.__name__} does not have: {sorted(gone)}"


def test_exclusions_have_reasons_and_belong_to_a_wing():
    shorts = {wing.__name__.removeprefix("metapers.") for wing, _ in WINGS}
    assert all(len(reason) > 10 and name.split(".")[0] in shorts for name, reason in table.EXCLUDED.items())
