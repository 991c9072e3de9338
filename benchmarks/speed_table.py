"""The speed table in words: medians over rounds, ratios within a round, and the issue's goals beside them."""

from statistics import median
from typing import Any

from benchmarks.contenders import CASES, COMPILED, FUNC, HIGHER, ON_DISK, PRODUCTS, SCAN

QUIET = 0.1  # of the cores others may use while a run counts: with more, a ratio says nothing about the contenders
YARDSTICK = {"yardstick": 1.0}
GOALS: dict[str, dict[str, float]] = {  # metapers' tasks per second over theirs, at least
    "W1": {FUNC: 8.0, COMPILED: 1.5, HIGHER: 50.0} | YARDSTICK,
    "W3": {FUNC: 2.0, COMPILED: 1.25, HIGHER: 30.0} | YARDSTICK,
    "W3-adapt": {FUNC: 4.0, COMPILED: 1.25, HIGHER: 80.0} | YARDSTICK,
    "one-user": {},
    "W2-5w1s": {FUNC: 2.0, HIGHER: 3.5, PRODUCTS: 0.6} | YARDSTICK,
    "W2-20w1s": {FUNC: 1.8, HIGHER: 1.8, PRODUCTS: 0.6} | YARDSTICK,
}
P50, P99 = 1.0, 3.0  # ms of one user, at most
FIRST, AGAIN = 20.0, 6.0  # s until the first step of W2, at most: compiling; with the compiled program on disk
FIELDS = ("ms_per_step", "ms_p99", "cpu_ms_per_step", "first_step_s", "start_s", "peak_rss_mb", "device_peak_mb")
TITLES = {
    "ms_per_step": "ms a step",
    "ms_p99": "99th percentile",
    "cpu_ms_per_step": "CPU ms a step",
    "first_step_s": "first step, s",
    "start_s": "from process start, s",
    "peak_rss_mb": "peak memory, MB",
    "device_peak_mb": "on the device, MB",
    "others": "others, cores",
}
EXPLAINED = (
    "Tasks per second: median of the rounds (lowest to highest). Ratio: metapers' tasks per second over theirs in the "
    "same round, median (lowest to highest); best: both at their best round. Others: cores busy with other work "
    f"meanwhile; above {QUIET:.0%} of all no goal is judged. The other columns are medians. Peak memory: of the "
    "contender's whole process."
)
PROVED = (
    "Equal losses: from the same data and first parameters, the largest relative difference over all steps. W2 is "
    "decided in float64: its inner rate of 0.4 under a batch norm amplifies rounding, so that in float32 two programs "
    "of the very same step part after a few steps, two of bare JAX as well."
)


def summaries(runs: dict[str, list[dict]]) -> list[dict[str, Any]]:
    """One row for each contender, over the rounds so far."""
    ours = [line["tasks_per_s"] for line in runs["metapers"]]
    return [summary(name, lines, ours) for name, lines in runs.items()]


def summary(name: str, lines: list[dict], ours: list[float]) -> dict[str, Any]:
    """Medians and ranges over the rounds; ``ratio``: metapers' tasks per second over this contender's."""
    failed = [line["error"] for line in lines if "error" in line]
    if failed:
        return {"name": name, "error": failed[0], "runs": lines}
    speeds = [line["tasks_per_s"] for line in lines]
    ratios = [mine / theirs for mine, theirs in zip(ours, speeds)]
    row: dict[str, Any] = {"name": name, "tasks_per_s": median(speeds), "lowest": min(speeds), "highest": max(speeds)}
    row |= {"ratio": median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
    row |= {"ratio_of_best": max(ours) / max(speeds)}
    for field in (*FIELDS, "others"):
        told = [line[field] for line in lines if line.get(field) is not None]
        row[field] = median(told) if told else None
    return row | {"runs": lines}


def report(results: dict[str, Any]) -> str:
    """The whole page."""
    where = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    lines = [
        f"# Speed on {where['device']}",
        "",
        f"`{results['command']}` at {where['revision']}, {where['date']}: {where['cores']} cores of "
        f"{where['processor']} ({where['system']}, JAX on {where['device']}), Python {where['python']}, {versions}.",
        "",
        EXPLAINED,
    ]
    if results["rounds_done"] < results["rounds"]:
        lines += ["", f"**Unfinished: {results['rounds_done']} of {results['rounds']} rounds are complete.**"]
    for name, part in results["workloads"].items():
        rows = part["contenders"]
        lines += ["", f"## {name}: {CASES[name].title}", "", *(table(rows) if rows else ["Not timed yet."])]
        lines += ["", *(goals(name, rows, where["cores"], results.get("programs", False)) if rows else [])]
        lines += products(rows)
        lines += ["", *map(agreement_line, part["agreement"])] if part["agreement"] else []
    return "\n".join([*lines, "", PROVED]) + "\n"


def table(rows: list[dict[str, Any]]) -> list[str]:
    shown = [field for field in (*FIELDS, "others") if any(row.get(field) is not None for row in rows)]
    titles = ["tasks/s", "metapers ÷ it", "best", *(TITLES[field] for field in shown)]
    lines = [f"| | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['name']} | {' | '.join(['failed', *['–'] * (len(titles) - 1)])} |")
            continue
        speed = f"{number(row['tasks_per_s'])} ({number(row['lowest'])}–{number(row['highest'])})"
        ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"
        speeds = ["–"] * 3 if row["name"] == ON_DISK else [speed, ratio, f"{row['ratio_of_best']:.2f}"]
        lines.append(f"| {row['name']} | {' | '.join([*speeds, *(cell(row, field) for field in shown)])} |")
    return lines


def cell(row: dict[str, Any], field: str) -> str:
    value = row.get(field)
    if value is None or (row["name"] == ON_DISK and field in ("ms_per_step", "ms_p99", "cpu_ms_per_step")):
        return "–"
    return f"{value:.2f}" if field == "others" else number(value)


def number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def goals(name: str, rows: list[dict[str, Any]], cores: int, programs: bool = False) -> list[str]:
    """One line a goal. Busy ones of the ``cores`` slow some contenders far more than others, so then nothing is
    judged. ``programs``: compiled ones lay on disk, so the first steps tell no compile time."""
    rows = [row | {"busy": row["others"] > QUIET * cores} for row in rows if "error" not in row]
    by_name = {row["name"]: row for row in rows}
    ours, lines = by_name["metapers"], []
    for other, wanted in GOALS[name].items():
        if other in by_name:
            row = by_name[other]
            word = verdict(row["ratio"] >= wanted, row["ratio_high"] >= wanted, ours, row)
            line = f"- at least {wanted:g} x {other}: {row['ratio']:.2f}, {word}"
            if SCAN in by_name:
                line += f"; {by_name[SCAN]['tasks_per_s'] / row['tasks_per_s']:.2f} in the training scan"
            lines.append(line)
    limits = [("one user, median, ms", "ms_per_step", P50), ("one user, 99th percentile, ms", "ms_p99", P99)]
    for title, field, wanted in limits if CASES[name].mode == "one" else []:
        lines.append(at_most(title, ours[field], wanted, ours))
    if CASES[name].images:
        compiled = at_most("first step, compiled, s", ours["first_step_s"], FIRST, ours)
        lines.append("- first step, compiled: not judged, the program lay on disk" if programs else compiled)
        if ON_DISK in by_name:
            again = by_name[ON_DISK]
            lines.append(at_most("first step, compiled program on disk, s", again["first_step_s"], AGAIN, again))
        if FUNC in by_name:
            device = all(row.get("device_peak_mb") is not None for row in (ours, by_name[FUNC]))
            field, where = ("device_peak_mb", " on the device") if device else ("peak_rss_mb", "")
            lines.append(at_most(f"peak memory{where}, MB (torch.func's)", ours[field], by_name[FUNC][field]))
    return lines


def at_most(title: str, found: float, wanted: float, *rows: dict[str, Any]) -> str:
    return f"- {title}: at most {number(wanted)}: {number(found)}, {verdict(found <= wanted, False, *rows)}"


def verdict(met: bool, within: bool, *rows: dict[str, Any]) -> str:
    """``within``: a round met it, though the median did not."""
    if any(row["busy"] for row in rows):
        return "not judged: the machine was busy with other work"
    return "met" if met else "missed, met in some rounds" if within else "MISSED"


def products(rows: list[dict[str, Any]]) -> list[str]:
    """What the machine can do, and how much of it metapers' step reaches."""
    found = next((row for row in rows if row["name"] == PRODUCTS and "error" not in row), None)
    if found is None:
        return []
    median_of = {field: median(line[field] for line in found["runs"]) for field in ("gflop_per_s", "fastest", "large")}
    return [
        f"- {found['runs'][0]['gflop_per_task']:.4f} GFLOP in the products of a task's step; all of them alone "
        f"{median_of['gflop_per_s']:.0f} GFLOP/s, the fastest kind {median_of['fastest']:.0f}, one large product "
        f"{median_of['large']:.0f}: metapers reaches {found['ratio']:.0%} of the first, "
        f"{found['ratio'] * median_of['gflop_per_s'] / median_of['fastest']:.0%} of the second"
    ]


def agreement_line(row: dict[str, Any]) -> str:
    which = "every step" if row["every_step"] else "the last step, five decimals"
    word = "agrees" if row["agrees"] else "DIFFERS"
    word = word if row["counts"] else "rounding, told only"
    return (
        f"- float{row['bits']}, loss of step {row['steps']}: {row['loss']:.8f}, {row['name']} ({which}) "
        f"{row['theirs']:.8f}, relative difference {row['difference']:.1e}: {word}"
    )
