"""The pictures of adapting: scores over inner steps and shots, and users one by one."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from metapers.members import registry
from metapers.report import drawing, palette, words
from metapers.report.palette import light
from metapers.report.points import Found, gains, strongest

WIDTH, HEIGHT = 11.0, 4.1  # inches


class Picture(NamedTuple):
    """A figure with what is said of it."""

    name: str  # of the PNG file
    figure: Figure
    caption: str
    alt: str


def over_steps(found: Found, summary: Mapping[str, Any], config: Mapping[str, Any]) -> Picture:
    """Score against inner steps: the leader by shots, and every arm at the headline's shots."""
    head, what = summary["headline"], words.examples(config)
    leader, shots = head["arm"], head["shots"]
    cube, band = found.cubes[leader], found.bands[leader]
    figure, axes = drawing.panels(WIDTH, HEIGHT, columns=2, sharey=True)
    left, right = axes[0]
    ends = {}
    for row, (count, colour) in enumerate(zip(cube.shots, palette.depths(len(cube.shots)), strict=True)):
        left.fill_between(cube.steps, band.low[row], band.high[row], color=colour, alpha=0.16, linewidth=0)
        left.plot(cube.steps, band.mean[row], color=colour, marker="o", markeredgecolor=light("paper"))
        ends[f"{count} {what if count != 1 else what[:-1]}"] = (band.mean[row, -1], colour)
    names = _arm_lines(right, found, leader, shots=shots)
    for name in found.references:
        value = float(found.bands[name].mean[_place(found, name, shots), 0])
        right.axhline(value, color=light("soft"), linestyle=palette.dashes(name), linewidth=1.2)
        names[name] = (value, light("soft"))
    left.set(title=f"{leader}, by size of the support", ylabel=words.score_axis(summary, config))
    right.set(title=f"All arms, {shots} {what}")
    for axis in (left, right):
        axis.set(xlabel="inner steps", xticks=cube.steps)
    _finish(figure, (left, right), (ends, names), found, head)
    caption = (
        f"Mean over {cube.users.size} test users (whole lives, last version, seeds averaged) against inner steps. "
        f"Bands: 95 % intervals over users, of {leader} only. Horizontal lines: what takes no steps, given the same "
        f"{shots} {what}; joint_model with steps is this model fine-tuned on the support. An arrow marks a line that "
        "leaves the picture."
    )
    return Picture("adaptation_steps", figure, caption, f"Score against inner steps for {leader} and the others")


def over_shots(found: Found, summary: Mapping[str, Any], config: Mapping[str, Any]) -> Picture:
    """Score against shots: the leader by steps, and everything at the headline's steps."""
    head, what = summary["headline"], words.examples(config)
    leader, steps = head["arm"], head["steps"]
    cube, band = found.cubes[leader], found.bands[leader]
    figure, axes = drawing.panels(WIDTH, HEIGHT, columns=2, sharey=True)
    left, right = axes[0]
    ends = {}
    for column, (count, colour) in enumerate(zip(cube.steps, palette.depths(len(cube.steps)), strict=True)):
        low, high, mean = (part[:, column] for part in (band.low, band.high, band.mean))
        left.fill_between(cube.shots, low, high, color=colour, alpha=0.16, linewidth=0)
        left.plot(cube.shots, mean, color=colour, marker="o", markeredgecolor=light("paper"))
        ends[words.counted(count, "step") if count else "start"] = (mean[-1], colour)
    names = _arm_lines(right, found, leader, steps=steps)
    for name in found.references:
        own = found.cubes[name].shots
        mean = found.bands[name].mean[:, 0]
        right.plot(own, mean, color=light("soft"), linestyle=palette.dashes(name), linewidth=1.2)
        names[name] = (float(mean[-1]), light("soft"))
    left.set(title=f"{leader}, by inner steps", ylabel=words.score_axis(summary, config))
    right.set(title=f"All arms, {words.counted(steps, 'inner step')}")
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set(xlabel=f"support {what} (shots)", xticks=cube.shots)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _finish(figure, (left, right), (ends, names), found, head)
    caption = (
        f"The same users and rows against the number of support {what}; all points are judged on the same later "
        f"{what}. Bands: 95 % intervals over users, of {leader} only. Grey: what takes no steps, given the same "
        "support. An arrow marks a line that leaves the picture."
    )
    return Picture("adaptation_shots", figure, caption, f"Score against support {what} for {leader} and the others")


def users(found: Found, summary: Mapping[str, Any], config: Mapping[str, Any]) -> Picture:
    """Who gains and who is hurt: sorted gains over the own start and over the best baseline; before against after."""
    head = summary["headline"]
    baseline = strongest(summary, tuple(registry("baseline")))
    figure, axes = drawing.panels(WIDTH, 3.9, columns=3 if baseline else 2)
    own = gains(found, summary, head["arm"], 0)
    _waterfall(axes[0, 0], own, "Adapting, against the own start")
    axes[0, 0].set_ylabel(f"gain in {words.score_axis(summary, config).split(',')[0]}, up is better")
    if baseline:
        _waterfall(axes[0, 1], gains(found, summary, baseline, 0), f"Adapted, against {baseline}")
    cube = found.cubes[head["arm"]]
    before, after = (cube.at(head["shots"], steps).ravel() for steps in (0, head["steps"]))
    _before_after(axes[0, -1], before, after, own, head)
    count, seeds = cube.users.size, cube.values.shape[0]
    caption = (
        f"Every test user ({count}, each under {words.counted(seeds, 'seed')}) at "
        f"{words.counted(head['shots'], 'shot')} and {words.counted(head['steps'], 'step')}. Sorted bars: how much "
        "better the adapted score is than the reference, the best first; orange: users who are hurt. The vertical axis "
        "ends near the outermost 0.5 % of users. Right: each point is one user; "
        f"{'above' if head['larger_is_better'] else 'below'} the diagonal adapting helped; the outermost stand at the "
        "edge."
    )
    return Picture("users", figure, caption, "Sorted gain of each user by adapting, and scores before and after")


def _arm_lines(
    axis: Axes, found: Found, leader: str, *, shots: int | None = None, steps: int | None = None
) -> dict[str, tuple[float, str]]:
    colours = palette.of_arms(found.arms)
    ends = {}
    for name in found.arms:
        cube, band = found.cubes[name], found.bands[name]
        at = _place(found, name, shots), slice(None)
        x = cube.steps
        if steps is not None:
            at, x = (slice(None), int(np.searchsorted(cube.steps, steps))), cube.shots
        top = name == leader
        if top:
            axis.fill_between(x, band.low[at], band.high[at], color=colours[name], alpha=0.18, linewidth=0)
        axis.plot(
            x,
            band.mean[at],
            color=colours[name],
            marker=palette.MARKERS.get(name, "o"),
            markeredgecolor=light("paper"),
            linewidth=2.4 if top else 1.5,
        )
        ends[name] = (float(band.mean[at][-1]), colours[name])
    return ends


def _finish(
    figure: Figure,
    axes: Sequence[Axes],
    labels: Sequence[Mapping[str, tuple[float, str]]],
    found: Found,
    head: Mapping[str, Any],
) -> None:
    leader = found.bands[head["arm"]]
    starts = [float(found.bands[name].mean[:, 0].mean()) for name in found.arms]
    others = {name: found.bands[name].mean.ravel() for name in found.references}
    nearest = min(others.values(), key=lambda values: abs(values - leader.mean.mean()).mean(), default=np.zeros(0))
    inside = [head["adapted"]["mean"], *starts, *nearest]
    wanted = [*leader.mean.ravel(), *leader.low.ravel(), *leader.high.ravel()]
    wanted += [value for name in found.arms for value in found.bands[name].mean.ravel()]
    wanted += [value for values in others.values() for value in values]
    axes[0].set_ylim(*drawing.limits(inside, wanted))
    for axis, ends in zip(axes, labels, strict=True):
        axis.margins(x=0.03)
        drawing.label_ends(axis, ends, height=figure.get_figheight() - 1.1, bold=head["arm"])


def _place(found: Found, name: str, shots: int | None) -> int:
    return 0 if shots is None else int(np.searchsorted(found.cubes[name].shots, shots))


def _waterfall(axis: Axes, gain: np.ndarray, title: str) -> None:
    ordered = np.sort(gain)[::-1]
    edges = np.linspace(0, 100, ordered.size + 1)
    tops = np.append(ordered, ordered[-1])
    for name, part in (("gain", np.maximum(tops, 0)), ("hurt", np.minimum(tops, 0))):
        axis.fill_between(edges, part, step="post", color=light(name), linewidth=0)
    axis.axhline(0, color=light("faint"), linewidth=0.8)
    hurt = float((gain < -1e-6).mean())
    low, high = np.quantile(gain, [0.005, 0.995])
    span = max(high, 0.0) - min(low, 0.0) or 1.0
    axis.set_ylim(min(low, 0.0) - 0.14 * span, max(high, 0.0) + 0.1 * span)
    axis.set(title=title, xlabel="users, sorted (%)", xlim=(0, 100))
    axis.axvline(100 * (1 - hurt), color=light("hurt"), linewidth=0.9, linestyle=(0, (3, 2)))
    ground = {"facecolor": light("paper"), "edgecolor": "none", "pad": 1.5}  # the dashed line passes behind the words
    axis.text(
        0.97,
        0.95,
        f"{words.share(hurt)} hurt",
        color=light("hurt"),
        transform=axis.transAxes,
        ha="right",
        va="top",
        fontweight="bold",
        bbox=ground,
    )
    axis.text(
        0.97,
        0.87,
        f"mean gain {words.number(float(gain.mean()), sign=True, places=3)}",
        color=light("soft"),
        transform=axis.transAxes,
        ha="right",
        va="top",
        bbox=ground,
    )


def _before_after(axis: Axes, before: np.ndarray, after: np.ndarray, gain: np.ndarray, head: Mapping[str, Any]) -> None:
    ends = np.quantile(np.concatenate([before, after]), [0.0025, 0.9975])
    pad = 0.05 * (float(ends[1] - ends[0]) or 1.0)
    low, high = float(ends[0]) - pad, float(ends[1]) + pad
    axis.plot([low, high], [low, high], color=light("faint"), linewidth=0.9)
    size = float(np.clip(3000 / before.size, 3, 14))
    for name, which in (("gain", gain >= -1e-6), ("hurt", gain < -1e-6)):
        axis.scatter(
            np.clip(before[which], low, high),
            np.clip(after[which], low, high),
            clip_on=False,
            s=size,
            color=light(name),
            alpha=0.6,
            linewidth=0,
            rasterized=before.size > 3000,
        )
    metric = words.metric_name(head["metric"])
    axis.set(xlim=(low, high), ylim=(low, high), title="Each user, before and after")
    axis.set(xlabel=f"{metric} at the start", ylabel=f"{metric} after {words.counted(head['steps'], 'step')}")
