"""From a drawn figure to the page and to a file: one style, the colours of the page, nothing global left changed."""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from metapers.report.palette import COLOURS, light

FONT = 9.0  # points; a figure of 11 inches on a page of 1060 pixels shows it as 12 pixels
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page puts its own in its place
    "font.size": FONT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": FONT,
    "axes.labelcolor": light("soft"),
    "axes.edgecolor": light("faint"),
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": light("grid"),
    "grid.linewidth": 0.7,
    "text.color": light("ink"),
    "xtick.color": light("faint"),
    "ytick.color": light("faint"),
    "xtick.labelcolor": light("soft"),
    "ytick.labelcolor": light("soft"),
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "figure.facecolor": light("paper"),
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "metapers",
}
METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}  # the same bytes every time


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """The style of the report while inside."""
    with matplotlib.rc_context(STYLE):
        yield


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` x ``height`` inches and its axes [rows, columns]."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.06)  # pyright: ignore
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure as it looks on paper, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        FigureCanvasAgg(figure).print_png(part)  # `savefig` draws everything twice
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element for a page: its colours are the page's variables, its ids begin with ``name``."""
    held = io.StringIO()
    figure.patch.set_visible(False)  # the page is its ground
    FigureCanvasSVG(figure).print_svg(held, metadata=METADATA)
    text = held.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'<svg\b[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for colour, (drawn, _) in COLOURS.items():
        text = text.replace(drawn, f"var(--{colour})")
    return text.strip()


def limits(inside: Sequence[float], wanted: Sequence[float], *, stretch: float = 0.35) -> tuple[float, float]:
    """Ends of a score axis: all of ``inside``, and of ``wanted`` what lies within ``stretch`` of their span beyond it.

    One number that ran away must not press all curves onto a line.

    >>> limits([1.0, 2.0], [0.9, 500.0], stretch=0.5)
    (0.834, 2.066)
    """
    low, high = float(np.min(inside)), float(np.max(inside))
    reach = stretch * ((high - low) or abs(high) or 1.0)
    near = [value for value in wanted if low - reach <= value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return round(low - margin, 12), round(high + margin, 12)


def label_ends(axes: Axes, labels: Mapping[str, tuple[float, str]], *, height: float, bold: str = "") -> None:
    """Names beside the right end of lines: name -> (y, colour), pushed apart where they would lie on each other.

    ``height``: of the axes, in inches, about. A name whose line left the axis says so with an arrow and its value.
    """
    low, high = axes.get_ylim()
    gap = 1.25 * FONT / (72 * height)
    order = sorted(labels, key=lambda name: labels[name][0])
    wanted = [min(max((labels[name][0] - low) / (high - low), 0.0), 1.0) for name in order]
    for name, place in zip(order, apart(wanted, gap), strict=True):
        value, colour = labels[name]
        away = "" if low <= value <= high else f" {'↑' if value > high else '↓'} {value:.3g}"
        axes.text(
            1.02,
            place,
            name + away,
            transform=axes.transAxes,
            color=colour,
            va="center",
            ha="left",
            fontsize=FONT - 0.5,
            fontweight="bold" if name == bold else "normal",
        )


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places at least ``gap`` apart, each group centred on where its members wanted to be.

    >>> [round(place, 2) for place in apart([0.1, 0.5, 0.5, 0.9], 0.1)]
    [0.1, 0.45, 0.55, 0.9]
    """
    groups: list[list[float]] = []  # [sum of wanted, count]
    for want in wanted:
        groups.append([want, 1])
        while len(groups) > 1 and _start(groups[-1], gap) < _start(groups[-2], gap) + groups[-2][1] * gap:
            total, count = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + count]
    return [_start(group, gap) + i * gap for group in groups for i in range(int(group[1]))]


def _start(group: list[float], gap: float) -> float:
    return group[0] / group[1] - (group[1] - 1) * gap / 2
