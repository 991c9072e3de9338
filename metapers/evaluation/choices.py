"""What validation users chose among the values that were tried, and whether a choice lies at the edge of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metapers.members import registry
from metapers.options import Option
from metapers.scoring.baselines import Fitted


def of(value: float, tried: Sequence[float], *, bound: float | None = None) -> dict[str, Any]:
    """A choice as a dict: ``value``, ``tried`` and ``edge``.

    Args:
      value: the chosen one of ``tried``.
      tried: all values among which validation users chose.
      bound: the least value that there is; there is nothing beyond it, so it is no edge.

    >>> of(3.0, (1.0, 2.0, 3.0))
    {'value': 3.0, 'tried': [1.0, 2.0, 3.0], 'edge': 'largest'}
    >>> of(0.0, (0.0, 1.0), bound=0.0)["edge"], of(1.0, (1.0,))["edge"]
    (None, None)
    """
    edge = None
    if len(tried) > 1 and value == max(tried):
        edge = "largest"
    elif len(tried) > 1 and value == min(tried) and value != bound:
        edge = "smallest"
    return {"value": value, "tried": list(tried), "edge": edge}


def of_baselines(fitted: Mapping[str, Fitted]) -> dict[str, dict[str, Any]]:
    """The choices of every baseline that has some, by the baseline's name and the option's.

    "shrink" was chosen for the table of whole histories, "shrink by period" for the table of periods.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, one in fitted.items():
        for key, option in registry("baseline")[name].options.items():
            for settings, where in ((one.lives.settings, ""), (one.periods.settings, " by period")):
                if isinstance(option, Option) and key in settings:
                    choice = of(settings[key], option.grid, bound=option.least)
                    found.setdefault(name, {})[f"{key}{where}"] = choice
    return found


def edges(chosen: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each choice that lies at the edge of what was tried.

    >>> list(edges({"user_ewma": {"rate": of(0.8, (0.2, 0.8))}}))
    ['user_ewma: rate 0.8 is the largest of the values tried (0.2, 0.8). A value beyond it may be better.']
    """
    for name, options in chosen.items():
        for key, one in options.items():
            if one["edge"]:
                tried = ", ".join(format(value, "g") for value in one["tried"])
                yield (
                    f"{name}: {key} {one['value']:g} is the {one['edge']} of the values tried ({tried}). "
                    "A value beyond it may be better."
                )


def worse_rows(summary: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each period in which returning users do worse from their stored row than from a fresh start."""
    for row in summary["banked"]:
        gain = row["gain"]
        if gain["mean"] < 0:
            ends = "excludes" if gain["high"] < 0 else "includes"
            clear = f"its interval {ends} zero" if row["users"] > 1 else "one user has no interval"
            yield (
                f"period {row['period']}: the stored rows of {row['users']} returning users are worse than a fresh "
                f"start by {-gain['mean']:.4f} on average ({clear})."
            )
