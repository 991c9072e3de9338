"""The tables that an evaluation prints: of a summary, or of a part of a run."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from metapers.evaluation.summary import LIFE
from metapers.journal import counted
from metapers.scores import mean_interval
from metapers.scoring.records import per_user
from metapers.spec import Config


def text(summary: Mapping[str, Any]) -> str:
    """The tables that eval.py prints."""
    head = summary["headline"]
    users, seeds = summary["users"]["test"], summary["seeds"]
    lines = [
        f"{head['metric']} of {users} test users (fold {', '.join(map(str, summary['folds']))}; seeds {seeds}), "
        f"{counted(head['shots'], 'support example')}, {counted(head['steps'], 'inner step')}, last version of "
        f"{head['strategy']}",
        "intervals: 95 % over users (bootstrap; below 50 users Student's t); difference: ours minus theirs, paired",
        "",
        f"{'':24}{'mean':>8}  {'95 % interval':^18}{'worst 10 %':>12}   {'difference (95 %)'}",
        _row(f"{head['strategy']}, adapted", head["adapted"]),
    ]
    lines += [_row(name, values) for name, values in head["baselines"].items()]
    lines += ["", f"hurt by adapting: {summary['hurt_fraction']:.1%} of users"]
    lines += [f"worse than {name}: {share:.1%} of users" for name, share in summary["hurt_fraction_against"].items()]
    if head["over_seeds"]:
        over = head["over_seeds"]
        lines.append(f"over {len(seeds)} seeds (t): {over['mean']:.4f} [{over['low']:.4f}, {over['high']:.4f}]")
    if summary["transductive"]:
        lines.append("transductive: the model saw all queries of a user at once, and they help each other")
    if summary["short"]:
        lines.append(f"{summary['short']} users and stages had fewer than {head['shots']} support examples (masked)")
    if summary["diverged"]["anywhere"]:
        lines.append(_diverged(summary))
    lines += ["", *_continual_lines(summary)]
    if summary["regret"]:
        lines += ["", "regret against the Bayes-optimal prediction (0 is perfect)"]
        lines += [
            f"  {name:22}{row['mean']:8.4f} [{row['low']:.4f}, {row['high']:.4f}]"
            for name, row in summary["regret"].items()
        ]
    return "\n".join(lines)


def _diverged(summary: Mapping[str, Any]) -> str:
    lost, head = summary["diverged"], summary["headline"]
    return (
        f"{lost['headline']} users and stages diverged at {counted(head['shots'], 'example')} and "
        f"{counted(head['steps'], 'step')}, "
        f"{lost['anywhere']} at some shots and steps: judged at their start, as they would be served"
    )


def _row(name: str, values: Mapping[str, float]) -> str:
    interval = f"[{values['low']:.4f}, {values['high']:.4f}]"
    gap = ""
    if "difference" in values:
        gap = f"{values['difference']:+.4f} [{values['difference_low']:+.4f}, {values['difference_high']:+.4f}]"
    return f"{name:24}{values['mean']:8.4f}  {interval:^18}{values['worst_decile']:12.4f}   {gap}".rstrip()


def _continual_lines(summary: Mapping[str, Any]) -> list[str]:
    names = list(summary["continual"])
    metrics = list(dict.fromkeys(key for name in names for key in summary["continual"][name]))
    if not names:
        return []
    lines = ["continual metrics of R (larger is better: a loss enters as its negative; forgetting > 0 is worse)"]
    lines.append(f"{'':18}" + "".join(f"{name:>28}" for name in names))
    for metric in metrics:
        cells = "".join(f"{_cell(summary['continual_intervals'][name].get(metric)):>28}" for name in names)
        lines.append(f"{metric:18}{cells}")
    lines += [f"  {metric} = {summary['definitions'][metric]}" for metric in metrics]
    gap = summary["gap"]
    if gap:
        gain, there = gap["gain_over_naive"], gap["to_close"]
        if gap["closed"] is None:
            closes = f"no gap to close in average: joint_so_far less naive {_signed(there)}"
        else:
            closes = f"continual closes {gap['closed']:.0%} of the gap from naive to joint_so_far in average"
        lines.append(f"{closes}; gain of continual over naive {_signed(gain)}")
    return lines


def _signed(row: Mapping[str, float]) -> str:
    return f"{row['mean']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def _cell(row: Mapping[str, float] | None) -> str:
    return f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" if row else "-"


def plain_table(table: pa.Table, config: Config, split: str) -> str:
    """Mean score by strategy, version, shots and steps on whole lives, for a look at a part of a run."""
    metric = config.evaluation.metric
    lives = (pc.field("evaluated_stage") == LIFE) & (pc.field("start") == "fresh")
    rows = table.filter(lives & (pc.field("metric") == metric))
    keys = ("strategy", "trained_stage", "shots", "steps")
    found = rows.group_by(list(keys)).aggregate([]).to_pylist()
    lines = [
        f"{metric} on {split} users' whole lives",
        f"{'strategy':18}{'version':>8}{'shots':>6}{'steps':>6}{'mean':>10}   95 % over users",
    ]
    for row in sorted(found, key=lambda row: tuple(row[key] for key in keys)):
        strategy, version, shots, steps = (row[key] for key in keys)
        where = dict(zip(keys, (strategy, version, shots, steps), strict=True))
        mean, low, high = mean_interval(per_user(rows, metric, **where)[1], draws=config.evaluation.bootstrap)
        lines.append(f"{strategy:18}{version:>8}{shots:>6}{steps:>6}{mean:>10.4f}   [{low:.4f}, {high:.4f}]")
    return "\n".join(lines)
