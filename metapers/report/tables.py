"""The tables of the page, as HTML."""

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from metapers.report import words
from metapers.report.words import counted, interval, number

_CHIPS = {1: '<span class="chip good">ours better</span>', 0: '<span class="chip">tie</span>'}
_CHIPS[-1] = '<span class="chip bad">ours worse</span>'


def escaped(value: Any) -> str:
    """Text for HTML."""
    return html.escape(str(value))


def table(
    head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], *, kind: str = "", text: Sequence[int] = (0,)
) -> str:
    """A table of ready HTML cells; ``rows``: (class of the row, cells); the first cell of a row is its name.

    ``text``: columns that are words rather than numbers.
    """
    column = lambda place: ' class="text"' if place in text else ""
    top = "".join(f'<th scope="col"{column(i)}>{cell}</th>' for i, cell in enumerate(head))
    lines = []
    for mark, cells in rows:
        tagged = [f'<th scope="row">{cells[0]}</th>']
        tagged += [f"<td{column(i)}>{cell}</td>" for i, cell in enumerate(cells) if i]
        lines.append(f"<tr{f' class={chr(34)}{mark}{chr(34)}' if mark else ''}>{''.join(tagged)}</tr>")
    body = "\n".join(lines)
    named = f' class="{kind}"' if kind else ""
    return f'<div class="wide"><table{named}><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def headline(summary: Mapping[str, Any]) -> str:
    """The adapted score beside every comparison: means, intervals, paired differences, the worst tenth."""
    head = summary["headline"]
    metric = words.metric_name(head["metric"])
    rows = {f"{head['arm']}, adapted": head["adapted"], **head["baselines"]}
    scale = forest_scale(list(rows.values()))
    lines = []
    for name, row in rows.items():
        ours = "difference" not in row
        meaning = f"{counted(head['shots'], 'shot')}, {counted(head['steps'], 'step')}" if ours else words.meaning(name)
        if name == "unadapted":
            meaning = f"the better start of the two, that of {head['unadapted']['of']}"
        if name == "oracle":
            chip = ""
        else:
            chip = "" if ours else _CHIPS[words.judged(row, head["larger_is_better"])]
        gap = "" if ours else f"{number(row['difference'], sign=True)}"
        ends = "" if ours else interval(row, "difference_", sign=True)
        cells = [f'{escaped(name)}<span class="under">{escaped(meaning)}</span>', number(row["mean"])]
        cells += [interval(row), forest(row, scale, head["adapted"]["mean"], strong=ours)]
        cells += [f'{gap}<span class="under">{ends}</span>', chip, number(row["worst_decile"])]
        lines.append(("ours" if ours else "", cells))
    columns = [
        "",
        f"mean {metric}",
        "95 % interval",
        "",
        "ours − theirs<br>95 %, paired",
        "",
        "worst tenth<br>of users",
    ]
    return table(columns, lines, kind="headline full", text=(0, 3, 5))


def forest_scale(rows: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Ends of the common axis of the small interval plots, not stretched by one that is far from the others."""
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    middle = float(np.median([row["mean"] for row in rows]))
    spread = float(np.median([abs(row["mean"] - middle) for row in rows])) or (high - low) or 1.0
    low, high = max(low, middle - 6 * spread), min(high, middle + 6 * spread)
    margin = 0.04 * (high - low or 1.0)
    return low - margin, high + margin


def forest(row: Mapping[str, float], scale: tuple[float, float], ours: float, *, strong: bool) -> str:
    """One interval as a bar with its mean as a dot; the dashed line is our mean."""
    place = lambda value: round(160 * float(np.clip((value - scale[0]) / (scale[1] - scale[0]), 0, 1)), 1)
    colour = "var(--continual)" if strong else "var(--soft)"
    low, mean, high, line = (place(value) for value in (row["low"], row["mean"], row["high"], ours))
    return (
        '<svg class="forest" viewBox="0 0 160 18" aria-hidden="true">'
        f'<line x1="{line}" x2="{line}" y1="-13" y2="31" stroke="var(--continual)" stroke-width="1" '
        'stroke-dasharray="2 3" opacity=".7"/>'
        f'<line x1="{low}" x2="{high}" y1="9" y2="9" stroke="{colour}" stroke-width="3" opacity=".5"/>'
        f'<circle cx="{mean}" cy="9" r="4" fill="{colour}"/></svg>'
    )


def arms(summary: Mapping[str, Any]) -> str:
    """Every arm's last version on whole histories, at the start and adapted."""
    head = summary["headline"]
    lines = []
    for name, row in head["arms"].items():
        meaning = words.meaning("joint_model_fine_tuned" if name == "joint_model" else name)
        label = f'{escaped(name)}<span class="under">{escaped(meaning)}</span>'
        cells = [
            label,
            number(row["start"]),
            number(row["mean"]),
            interval(row),
            number(row["mean"] - row["start"], sign=True),
        ]
        lines.append(("ours" if name == head["arm"] else "", cells))
    columns = ["", "at the start", f"after {counted(head['steps'], 'step')}", "95 % interval", "adapted − start"]
    return table(columns, lines, kind="headline")


def budget(summary: Mapping[str, Any]) -> str:
    """What the last version of each arm was trained with."""
    columns = ("outer_steps", "user_tasks", "gradient_evaluations", "state_bytes", "seconds")
    rows = summary["budget"].items()
    lines = [("", [escaped(name), *(f"{row[column]:,.0f}" for column in columns)]) for name, row in rows]
    heads = ("outer steps", "user-tasks", "gradient evaluations", "bytes of one seed's state", "seconds, all periods")
    return table(["trained with", *heads], lines) if lines else ""


def continual(summary: Mapping[str, Any]) -> str:
    """The continual metrics with intervals, a column for each arm."""
    found, names = summary["continual_intervals"], list(summary["continual_intervals"])
    metrics = [name for name in summary["definitions"] if any(name in found[each] for each in names)]
    lines = []
    for metric in metrics:
        meaning = f'<span class="under">{escaped(words.EXPLAINED.get(metric, ""))}</span>'
        formula = f'<span class="under"><code>{escaped(summary["definitions"][metric].split(", ")[0])}</code></span>'
        cells = [f"{escaped(metric)}{meaning}{formula}"]
        for name in names:
            row = found[name].get(metric)
            cells.append("" if row is None else f'{number(row["mean"])}<span class="under">{interval(row)}</span>')
        lines.append(("", cells))
    return table(["", *map(escaped, names)], lines, kind="full")


def continual_at_start(summary: Mapping[str, Any]) -> str:
    """The same metrics of the scores without inner steps."""
    found, names = summary["continual_at_start"], list(summary["continual_at_start"])
    metrics = [name for name in summary["definitions"] if any(name in found[each] for each in names)]
    cell = lambda name, metric: number(found[name][metric]) if metric in found[name] else ""
    return table(
        ["", *map(escaped, names)], [("", [metric, *(cell(name, metric) for name in names)]) for metric in metrics]
    )


def banked(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    """Banked against fresh starts by period, with paired intervals."""
    steps = summary["headline"]["steps"]
    lines = []
    for row in rows:
        cells = [f"period {row['period']}", str(row["users"])]
        for taken in (0, steps):
            gap = row[f"gap_{taken}"]
            cells += [number(row[f"{start}_{taken}"]) for start in ("banked", "fresh")]
            cells.append(f'{number(gap["mean"], sign=True)}<span class="under">{interval(gap, sign=True)}</span>')
        lines.append(("", cells))
    parts = [
        f"{part}<br>{when}"
        for when in ("at the start", counted(steps, "step"))
        for part in ("banked", "fresh", "banked − fresh")
    ]
    return table(["", "users", *parts], lines)


def regret(summary: Mapping[str, Any]) -> str:
    """Regret against the oracle with intervals."""
    rows = sorted(summary["regret"].items(), key=lambda item: item[1]["mean"])
    ours = summary["headline"]["arm"]
    lines = [
        ("ours" if name == ours else "", [escaped(name), number(row["mean"]), interval(row)]) for name, row in rows
    ]
    return table(["", "mean regret", "95 % interval"], lines, kind="headline")


def periods(summary: Mapping[str, Any]) -> str:
    """The last version on every period: arms adapted, what needs no steps as it is."""
    rows = summary["periods"]
    names = [name for name in rows[0] if name != "period" and not name.endswith("_start")] if rows else []
    lead = summary["headline"]["arm"]
    start = f"{lead}_start"
    columns = [start, lead, *(name for name in names if name != lead)]
    titles = [
        f"{escaped(lead)}<br>at the start",
        f"{escaped(lead)}<br>adapted",
        *(escaped(name) for name in columns[2:]),
    ]
    lines = [("", [f"period {row['period']}", *(number(row[name]) for name in columns)]) for row in rows]
    return table(["", *titles], lines)


def counts(provenance: Mapping[str, Any]) -> str:
    """Users and examples of each period and split, with the periods' dates where they have some."""
    splits = provenance["splits"]
    number_of = len(next(iter(splits.values())))
    periods = dates(provenance.get("boundaries", ()), number_of)
    lines = []
    for period in range(number_of):
        cells = [f"period {period}", *([periods[period]] if periods else [])]
        for split in splits.values():
            cells += [f"{split[period]['users']:,}", f"{split[period]['examples']:,}"]
        lines.append(("", cells))
    heads = [f"{split}<br>{part}" for split in splits for part in ("users", "examples")]
    return table(["", *(["period"] if periods else []), *heads], lines, text=(0, 1) if periods else (0,))


def dates(boundaries: Sequence[float], number_of: int) -> list[str]:
    """The period of each period from UNIX seconds between them; [] where there are none.

    >>> dates([0.0], 2)
    ['until 1970-01-01', '1970-01-01 on']
    """
    if not boundaries or len(boundaries) != number_of - 1:
        return []
    days = [datetime.fromtimestamp(cut, UTC).date().isoformat() for cut in boundaries]
    between = [f"{begin} to {end}" for begin, end in zip(days[:-1], days[1:], strict=True)]
    return [f"until {days[0]}", *between, f"{days[-1]} on"]
