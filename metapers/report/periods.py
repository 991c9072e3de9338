"""The pictures of periods: the matrices, forgetting, the bank, and the distance to the best possible."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from metapers.report import drawing, palette, words
from metapers.report.palette import light
from metapers.report.pictures import WIDTH, Picture


def matrices(summary: Mapping[str, Any], config: Mapping[str, Any]) -> Picture:
    """Every arm's score, trained period by evaluated period, at the start and adapted."""
    head, held = summary["headline"], {name: np.array(value) for name, value in summary["matrix"].items()}
    count = next(iter(held.values())).shape[-1]
    kinds = ("at the start", f"after {words.counted(head['steps'], 'step')}")
    width = WIDTH / max(len(held), 3)
    figure, axes = drawing.panels(WIDTH, 2 * (0.87 * width + 0.4), rows=2, columns=len(held))
    for row, kind in enumerate(kinds):
        values = np.stack([matrix[row] for matrix in held.values()])
        low, high = np.quantile(values, [0.25, 1.0] if head["larger_is_better"] else [0.0, 0.75])
        norm = Normalize(float(low), float(high if high > low else low + 1e-6), clip=True)
        for axis, (name, matrix) in zip(axes[row], held.items(), strict=True):
            _heat(axis, matrix[row], norm, larger=head["larger_is_better"])
            axis.set_title(f"{name}, {kind}" if len(held) < 4 else (name if row == 0 else ""))
        first = axes[row, 0]
        first.set_ylabel(f"{kind}\n\ntrained up to period" if len(held) >= 4 else "trained up to period")
    for axis in axes[-1]:
        axis.set_xlabel("evaluated on period")
    metric = words.metric_name(head["metric"])
    caption = (
        f"Mean {metric} of the test users of each period (column) after training up to a period (row), at "
        f"{words.counted(head['shots'], 'shot')}; top: {kinds[0]} (no steps), bottom: {kinds[1]}. Darker is better; "
        "each row of pictures has one colour scale for all arms; the worst quarter of its cells shares the "
        "lightest shade. The outlined diagonal: just learned. Below it: earlier periods, what is kept. Above it: "
        "periods not yet seen."
    )
    alt = f"{metric} by trained and evaluated period, {count} by {count}, for each arm"
    return Picture("matrix", figure, caption, alt)


def forgetting(summary: Mapping[str, Any], config: Mapping[str, Any]) -> Picture:
    """The adapted score on each period after each period of training, a line for each arm."""
    held = {name: np.array(value)[1] for name, value in summary["matrix"].items()}
    leader = summary["headline"]["arm"]
    held = {name: held[name] for name in sorted(held, key=lambda name: name == leader)}
    count = next(iter(held.values())).shape[-1]
    columns = min(count, 4 if count % 5 else 5)
    rows = math.ceil(count / columns)
    figure, axes = drawing.panels(WIDTH, 0.4 + 2.7 * rows, rows=rows, columns=columns, sharey=True)
    colours = palette.of_arms(list(held))
    after = np.tril_indices(count)
    inside = np.concatenate([matrix[after] for name, matrix in held.items() if name != "frozen" or len(held) == 1])
    bounds = drawing.limits(list(inside), [value for matrix in held.values() for value in matrix.ravel()], stretch=0.6)
    for period, axis in enumerate(axes.ravel()):
        if period >= count:
            axis.set_axis_off()
            continue
        for name, matrix in held.items():
            wide = 2.4 if name == leader else 1.5
            _before_and_since(axis, matrix[:, period], period, name, colours[name], wide)
        axis.set(title=f"On period {period}", xticks=range(count), xlim=(-0.25, count - 0.75), ylim=bounds)
        axis.axvspan(-0.25, period, color=light("grid"), alpha=0.45, linewidth=0)
        _away(axis, {name: float(matrix[-1, period]) for name, matrix in held.items()}, bounds, colours)
    for axis in axes[-1]:
        axis.set_xlabel("trained up to period")
    for axis in axes[:, 0]:
        axis.set_ylabel(words.score_axis(summary, config).split(",")[0])
    handles, names = axes.ravel()[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), frameon=False, handlelength=1.8)
    direction = "A line that falls" if summary["headline"]["larger_is_better"] else "A line that rises"
    caption = (
        "The same matrices as curves: the adapted score on the users of one period after training up to each period. "
        f"Shaded: before the period was seen. {direction} after the shading is forgetting. An arrow names a line that "
        "ends outside the picture."
    )
    return Picture("forgetting", figure, caption, "Score on each period after each period of training")


def bank(rows: list[dict[str, Any]], summary: Mapping[str, Any], config: Mapping[str, Any]) -> Picture:
    """Users who returned: from their own row of the bank and from a fresh start, before and after adapting."""
    head = summary["headline"]
    steps = (0, head["steps"])
    figure, axes = drawing.panels(WIDTH * 0.75, 1.25 + 0.42 * max(len(rows), 2), columns=2, sharey=True)
    for axis, taken in zip(axes[0], steps, strict=True):
        for place, row in enumerate(rows):
            own, fresh = row[f"banked_{taken}"], row[f"fresh_{taken}"]
            better = (own > fresh) == head["larger_is_better"]
            axis.plot(
                [fresh, own], [place, place], color=light("gain" if better else "hurt"), linewidth=2.2, alpha=0.55
            )
            axis.plot(fresh, place, "o", color=light("soft"), markerfacecolor=light("paper"), markersize=6.5)
            axis.plot(own, place, "o", color=light("continual"), markersize=6.5)
        axis.set(
            title="at the start" if taken == 0 else f"after {words.counted(taken, 'step')}",
            ylim=(len(rows) - 0.5, -0.5),
        )
        axis.set(yticks=range(len(rows)), yticklabels=[f"period {row['period']}" for row in rows])
        axis.set_xlabel(words.score_axis(summary, config).split(",")[0])
        axis.margins(x=0.1)
    marks = {"marker": "o", "linestyle": "none", "markersize": 6.5}
    handles = [
        Line2D([], [], color=light("continual"), label="from the user's row of the bank", **marks),
        Line2D([], [], color=light("soft"), markerfacecolor=light("paper"), label="from the fresh start", **marks),
        Line2D([], [], color=light("gain"), linewidth=2.2, alpha=0.55, label="the bank helped"),
        Line2D([], [], color=light("hurt"), linewidth=2.2, alpha=0.55, label="it did not"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, handlelength=1.4)
    caption = (
        f"Mean over the test users of {head['arm']} who returned in a period. Filled: started from the row that "
        "the bank kept of them; hollow: from the fresh start. Blue bar: the bank helped; orange: it did not."
    )
    return Picture("bank", figure, caption, "Banked against fresh starts by period")


def regret(summary: Mapping[str, Any], config: Mapping[str, Any]) -> Picture:
    """How far each arm and baseline is from the Bayes-optimal prediction."""
    found = summary["regret"]
    order = sorted(found, key=lambda name: found[name]["mean"])
    figure, axes = drawing.panels(WIDTH * 0.6, 0.8 + 0.27 * len(order))
    axis = axes[0, 0]
    colours = palette.of_arms([name for name in order if name in summary["headline"]["arms"]])
    for place, name in enumerate(order):
        row, colour = found[name], colours.get(name, light("soft"))
        axis.plot(
            [row["low"], row["high"]], [place, place], color=colour, linewidth=3, alpha=0.4, solid_capstyle="butt"
        )
        axis.plot(row["mean"], place, marker=palette.MARKERS.get(name, "o"), color=colour, markersize=6)
    axis.axvline(0, color=light("ink"), linewidth=1)
    axis.set(yticks=range(len(order)), yticklabels=order, ylim=(len(order) - 0.5, -0.5))
    axis.set_xlabel(f"regret in {words.score_axis(summary, config).split(',')[0]}; 0 is the best possible")
    axis.grid(axis="y", visible=False)
    caption = (
        f"Score at {words.counted(summary['headline']['shots'], 'shot')} and "
        f"{words.counted(summary['headline']['steps'], 'step')} less that of the Bayes-optimal prediction from the "
        "same support, per user (baselines take no steps). Bars: 95 % intervals over users."
    )
    return Picture("regret", figure, caption, "Regret of each arm against the oracle")


def _before_and_since(axis: Axes, scores: np.ndarray, period: int, name: str, colour: str, width: float) -> None:
    style: dict[str, Any] = {
        "color": colour,
        "marker": palette.MARKERS.get(name, "o"),
        "markeredgecolor": light("paper"),
    }
    axis.plot(range(period + 1), scores[: period + 1], linewidth=0.6 * width, alpha=0.55, **style)
    axis.plot(range(period, len(scores)), scores[period:], linewidth=width, label=name, **style)


def _away(axis: Axes, last: Mapping[str, float], bounds: tuple[float, float], colours: Mapping[str, str]) -> None:
    away = [name for name, value in last.items() if not bounds[0] <= value <= bounds[1]]
    text = ", ".join(f"{name} {'↑' if last[name] > bounds[1] else '↓'} {last[name]:.3g}" for name in away)
    if away:
        colour = colours[away[0]] if len(away) == 1 else light("soft")
        axis.set_title(text, loc="right", color=colour, fontsize=drawing.FONT - 0.5, fontweight="normal")


def _heat(axis: Axes, values: np.ndarray, norm: Normalize, *, larger: bool) -> None:
    count = len(values)
    shades = LinearSegmentedColormap.from_list("scores", palette.SHADES if larger else palette.SHADES[::-1])
    size = float(np.clip(42 / count, 4.5, drawing.FONT))
    for (row, column), value in np.ndenumerate(values):
        colour = shades(float(norm(value)))
        axis.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor=light("paper"), linewidth=0.8)
        )
        bright = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
        text = f"{value:.3f}" if abs(value) < 100 else f"{value:.2g}"
        axis.text(
            column, row, text, ha="center", va="center", fontsize=size, color="#10212d" if bright > 0.45 else "#fdfefe"
        )
    for period in range(count):
        axis.add_patch(
            Rectangle((period - 0.46, period - 0.46), 0.92, 0.92, fill=False, edgecolor=light("hurt"), linewidth=1.3)
        )
    axis.set(
        xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), xticks=range(count), yticks=range(count), aspect="equal"
    )
    axis.grid(visible=False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
