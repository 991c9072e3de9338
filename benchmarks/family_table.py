"""The tables of the family as Markdown, from recorded figures: one table for each stream, and method × stream."""

import shlex
from collections.abc import Sequence
from typing import Any

from benchmarks.family_rows import MACHINE, STREAMS
from metapers.evaluation.published import PUBLISHED, published
from metapers.members import registry
from metapers.scores import sign
from metapers.spec import METHODS
from metapers.spec.root import OPERATIONAL


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The recorded figures as Markdown: a table for each stream."""
    parts = []
    for name, stream in STREAMS.items():
        there = [(method, figures[f"{name}:{method}"]) for method in stream.methods if f"{name}:{method}" in figures]
        if not there:
            continue
        parts += [f"### {stream.title}", "", about(there), "", *HEAD]
        parts += [line(name, method, one) for method, one in there]
        missing = [method for method in stream.methods if f"{name}:{method}" not in figures]
        parts += ["", f"Not run yet: {', '.join(missing)}." if missing else "", ""]
    return "\n".join(parts).strip()


HEAD = [
    "| config | examples | adapted | 95 % interval | unadapted | hurt | joint, fine-tuned | best trivial | published "
    "| minutes |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def about(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The test users of the rows of a stream, by row where they differ, and what a star means."""
    by_users: dict[str, list[str]] = {}
    for method, one in rows:
        folds = f" of folds {', '.join(map(str, one['folds']))}" if len(one["folds"]) > 1 else ""
        by_users.setdefault(f"{one['users']} test users{folds}", []).append(method)
    said = [users if len(by_users) == 1 else f"{users} ({', '.join(methods)})" for users, methods in by_users.items()]
    star = any(one["transductive"] for _, one in rows)
    said += ["final version", *(["a star: transductive, the queries of a user are seen together"] if star else [])]
    return f"{'; '.join(said)}."


def line(name: str, method: str, one: dict[str, Any]) -> str:
    """One row of the table."""
    ours, others = one["adapted"], one["baselines"]
    best = best_trivial(one)
    tuned, start = others.get("joint_model_fine_tuned"), has_start(method)
    cells = [
        f"`{name}.py:{method}`{'*' if one['transductive'] else ''}, seeds {len(one['seeds'])}{changed(one)}"
        f"{', from features' if 'features' in one['seconds'] else ''}{elsewhere(one)}",
        str(one["shots"]),
        f"**{shown(one, ours['mean'])}**",
        f"{shown(one, ours['low'])} – {shown(one, ours['high'])}",
        shown(one, others["unadapted"]["mean"]) if start else "–",
        worse(one) if start else "–",
        shown(one, tuned["mean"]) if tuned else "–",
        f"{best} {shown(one, others[best]['mean'])}" if best else "–",
        published(name, method),
        f"{sum(one['seconds'].get(part, 0.0) for part in ('features', 'train', 'evaluate')) / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def worse(one: dict[str, Any]) -> str:
    """The share of users who are clearly worse adapted than at their start, and how many diverged and count there."""
    lost = one.get("diverged", 0)  # older rows have no count: there one diverged user stopped the evaluation
    return f"{one['hurt']:.1%}" + (f", {lost} diverged" if lost else "")


def elsewhere(one: dict[str, Any]) -> str:
    """The accelerator that trained a row, or, after "from features", its features; "" for a processor."""
    trained, there, _ = one["machine"].partition("; ")
    if not there:
        return ""
    return trained.removeprefix("features") if trained.startswith("features") else f", on {trained}"


def changed(one: dict[str, Any]) -> str:
    """The values in a row's command that differ from its config and can change a number by more than rounding."""
    given = [part.removeprefix("--config.") for part in shlex.split(one["command"]) if part.startswith("--config.")]
    keys = [part.split("=")[0] for part in given]
    silent = [key in MACHINE or key.split(".")[0] in OPERATIONAL for key in keys]
    return "".join(f", `{part}`" for part, quiet in zip(given, silent, strict=True) if not quiet)


def grid(figures: dict[str, dict[str, Any]]) -> str:
    """Method × stream for the README: adapted, half the 95 % interval, and what was published."""
    there = [name for name in STREAMS if any(key.startswith(f"{name}:") for key in figures)]
    every = dict.fromkeys([*METHODS, *(method for name in there for method in STREAMS[name].methods)])
    methods = [m for m in every if any(f"{name}:{m}" in figures for name in there) and m != "joint"]
    lines = ["| method | " + " | ".join(there) + " | published |", "|---" * (len(there) + 2) + "|"]
    for method in methods:
        cells = [cell(figures.get(f"{name}:{method}")) for name in there]
        papers = [f"{name} {published(name, method)}" for name in there if (name, method) in PUBLISHED]
        lines.append(f"| {method} | {' | '.join(cells)} | {', '.join(papers)} |")
    for title, key in (("joint, fine-tuned", "joint_model_fine_tuned"), ("best trivial", "")):
        cells = [cell(other(figures, name, key)) for name in there]
        lines.append(f"| *{title}* | {' | '.join(cells)} | |")
    return "\n".join(lines)


def other(figures: dict[str, dict[str, Any]], name: str, key: str) -> dict[str, Any] | None:
    """The row "joint" of a stream, or this baseline of the first row that has it; key "": the best of the trivial.

    Rows of other shots than the config's come last.
    """
    methods = sorted(STREAMS[name].methods, key=lambda method: "-" in method)
    rows = [figures[f"{name}:{method}"] for method in methods if f"{name}:{method}" in figures]
    if key and f"{name}:joint" in figures:
        return figures[f"{name}:joint"]
    keys = [key or best_trivial(row) for row in rows]
    found = [row | {"adapted": row["baselines"][one]} for row, one in zip(rows, keys) if one in row["baselines"]]
    return found[0] if found else None


def cell(one: dict[str, Any] | None) -> str:
    """A figure of the grid, and half its interval."""
    if one is None:
        return ""
    value = one["adapted"]
    return f"{shown(one, value['mean'], 1)} ± {shown(one, (value['high'] - value['low']) / 2, 1)}"


def shown(one: dict[str, Any], value: float, digits: int = 2) -> str:
    """A figure of a row: accuracy in per cent, an RMSE with two digits more, other errors with one."""
    more = {"accuracy": 0, "rmse": 2}.get(one["metric"], 1)
    return f"{100 * value:.{digits}f}" if one["metric"] == "accuracy" else f"{value:.{digits + more}f}"


def best_trivial(one: dict[str, Any]) -> str | None:
    """The best of a row's baselines of kind "baseline", which use no model; None without any."""
    means = {key: row["mean"] for key, row in one["baselines"].items() if key in registry("baseline")}
    return max(means, key=lambda key: sign(one["metric"]) * means[key], default=None)


def has_start(method: str) -> bool:
    """Whether a user has a prediction before adapting: not under a head that needs a support set."""
    heads = [METHODS[part].head for part in method.split("-") if part in METHODS]
    return all(not head or registry("head")[head].facts.learns_alone for head in heads)
