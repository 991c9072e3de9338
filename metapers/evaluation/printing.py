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
        f"{head['arm']}",
        "intervals: 95 % over users (bootstrap; below 50 users Student's t); difference: ours minus theirs, paired",
        "",
        f"{'':24}{'mean':>8}  {'95 % interval':^18}{'worst 10 %':>12}   {'difference (95 %)'}",
        _row(f"{head['arm']}, adapted", head["adapted"]),
    ]
    lines += [_row(name, values) for name, values in head["baselines"].items()]
    lines += ["", *(_shares(name, row) for name, row in summary["shares"].items())]
    lines += [f"statistics of other users and baselines: {AS_OF[summary['as_of']]} (as_of = {summary['as_of']})"]
    if head["over_seeds"]:
        over = head["over_seeds"]
        lines.append(f"over {len(seeds)} seeds (t): {over['mean']:.4f} [{over['low']:.4f}, {over['high']:.4f}]")
    if summary["transductive"]:
        lines.append("transductive: the model saw all queries of a user at once, and they help each other")
    if summary["short"]:
        lines.append(f"{summary['short']} users and periods had fewer than {head['shots']} support examples (masked)")
    if summary["diverged"]["anywhere"]:
        lines.append(_diverged(summary))
    lines += ["", *_continual_lines(summary), *_budget_lines(summary)]
    if summary["regret"]:
        lines += ["", "regret against the Bayes-optimal prediction (0 is perfect)"]
        lines += [
            f"  {name:22}{row['mean']:8.4f} [{row['low']:.4f}, {row['high']:.4f}]"
            for name, row in summary["regret"].items()
        ]
    return "\n".join(lines)


AS_OF = {
    "before": "from the periods before an example's own",
    "end": "from the periods up to an example's own",
    "retrospective": "from the whole stream, later periods included",
}


def _shares(name: str, row: Mapping[str, Any]) -> str:
    against = "the start" if name == "start" else name
    parts = [
        f"{row[part]['mean']:.1%} [{row[part]['low']:.1%}, {row[part]['high']:.1%}]" for part in ("better", "worse")
    ]
    return f"adapted against {against}, by more than {row['tolerance']:g}: {parts[0]} better, {parts[1]} worse"


def _budget_lines(summary: Mapping[str, Any]) -> list[str]:
    if not summary["budget"]:
        return []
    columns = ("outer_steps", "user_tasks", "gradient_evaluations", "state_bytes", "seconds")
    lines = ["", "what the last version of each arm was trained with (bytes of one seed; seconds of all its periods)"]
    lines.append(f"{'':18}" + "".join(f"{name.replace('_', ' '):>22}" for name in columns))
    for name, row in summary["budget"].items():
        lines.append(f"{name:18}" + "".join(f"{row[column]:>22,.0f}" for column in columns))
    return lines


def _diverged(summary: Mapping[str, Any]) -> str:
    lost, head = summary["diverged"], summary["headline"]
    return (
        f"{lost['headline']} users and periods diverged at {counted(head['shots'], 'example')} and "
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
    return lines + _gap_lines(summary["gap"])


def _gap_lines(gap: Mapping[str, Any] | None) -> list[str]:
    if not gap:
        return []
    lines = [f"gain of {gap['arm']} over fine_tune in average {_signed(gap['gain_over_fine_tune'])}"]
    for name, row in gap["to"].items():
        if row["closed"] is None:
            lines.append(f"no gap to close: {name} less fine_tune {_signed(row['to_close'])}")
        else:
            lines.append(f"{gap['arm']} closes {row['closed']:.0%} of the gap from fine_tune to {name}")
    return lines


def _signed(row: Mapping[str, float]) -> str:
    return f"{row['mean']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def _cell(row: Mapping[str, float] | None) -> str:
    return f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" if row else "-"


def plain_table(table: pa.Table, config: Config, split: str) -> str:
    """Mean score by arm, version, shots and steps on whole lives, for a look at a part of a run."""
    metric = config.evaluation.metric
    lives = (pc.field("period") == LIFE) & (pc.field("start") == "fresh")
    rows = table.filter(lives & (pc.field("metric") == metric))
    keys = ("arm", "version", "shots", "steps")
    found = rows.group_by(list(keys)).aggregate([]).to_pylist()
    lines = [
        f"{metric} on {split} users' whole lives",
        f"{'arm':18}{'version':>8}{'shots':>6}{'steps':>6}{'mean':>10}   95 % over users",
    ]
    for row in sorted(found, key=lambda row: tuple(row[key] for key in keys)):
        arm, version, shots, steps = (row[key] for key in keys)
        where = dict(zip(keys, (arm, version, shots, steps), strict=True))
        mean, low, high = mean_interval(per_user(rows, metric, **where)[1], draws=config.evaluation.bootstrap)
        lines.append(f"{arm:18}{version:>8}{shots:>6}{steps:>6}{mean:>10.4f}   [{low:.4f}, {high:.4f}]")
    return "\n".join(lines)
