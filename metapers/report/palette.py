"""Colours by name, one for a light and one for a dark page; safe for the common kinds of colour blindness."""

from collections.abc import Sequence
from typing import Any

# name -> (light, dark). Pictures are drawn in the light colours; on the page each becomes a CSS variable, so every
# light colour must stand here once.
COLOURS = {
    "paper": ("#fefefe", "#14181c"),
    "ink": ("#1c2730", "#e4e9ed"),
    "soft": ("#5b6872", "#9aa7b1"),
    "faint": ("#8b969e", "#74818b"),
    "grid": ("#e1e6ea", "#2b333a"),
    "continual": ("#0b66b2", "#5cb1f6"),
    "fine_tune": ("#d1590a", "#ff8d42"),
    "cumulative": ("#00866b", "#2fcaa0"),
    "upper_bound": ("#4f5a64", "#b5c0c9"),
    "frozen": ("#a07800", "#e0b63a"),
    "joint_model": ("#ad4d8a", "#e78fc5"),
    "other_1": ("#6b57b8", "#a897f0"),
    "other_2": ("#2d98a8", "#6fd3e0"),
    "gain": ("#3b86c6", "#4f9fde"),
    "hurt": ("#d6602a", "#f58a52"),
    "depth_0": ("#93bfe3", "#4473a0"),
    "depth_1": ("#79aedb", "#4a82b5"),
    "depth_2": ("#629ed0", "#5290c6"),
    "depth_3": ("#4286c0", "#5ea0d8"),
    "depth_4": ("#276eab", "#7fb9e9"),
    "depth_5": ("#125691", "#a5d1f5"),
    "depth_6": ("#063f70", "#cfe7fd"),
}
DEPTHS = 7
SHADES = ("#eef4f8", "#cfe1ec", "#9fc3d9", "#659dc0", "#33749f", "#164f78", "#072f4c")  # of a matrix: worse to better
MARKERS = {"continual": "o", "fine_tune": "s", "cumulative": "^", "upper_bound": "P", "frozen": "D", "joint_model": "v"}
DASHES = {
    "global_mean": (0, (1, 2.2)),
    "user_mean": (0, (5, 2, 1, 2)),
    "user_last": (0, (1, 1, 5, 1)),
    "user_ewma": (0, (3, 1, 1, 1, 1, 1)),
    "ridge_residual": (0, (7, 2, 1, 2, 1, 2)),
    "nearest": (0, (2, 2.6)),
    "item_user_bias": (0, (5, 2.2)),
    "item_recent_bias": (0, (3, 1.2)),
    "class_prior": (0, (1, 2.2)),  # of classes, so never in one picture with the means
    "user_frequency": (0, (5, 2, 1, 2)),
    "bigram": (0, (5, 2.2)),
    "oracle": "solid",
}


def light(name: str) -> str:
    """The colour in which a thing is drawn.

    >>> light("ink")
    '#1c2730'
    """
    return COLOURS[name][0]


def dashes(name: str) -> Any:
    """The line of a baseline: its own where it has one, else that of all others.

    >>> dashes("oracle"), dashes("a plug-in's")
    ('solid', (0, (2, 1.2)))
    """
    return DASHES.get(name, (0, (2, 1.2)))


def of_arms(names: Sequence[str]) -> dict[str, str]:
    """A colour for each arm: its own where it has one, else the next free."""
    free = iter(("other_1", "other_2", *("soft" for _ in names)))
    return {name: light(name if name in MARKERS else next(free)) for name in names}


def depths(count: int) -> list[str]:
    """``count`` colours from few to many, of one hue."""
    last = max(count - 1, 1)
    return [light(f"depth_{round(i * (DEPTHS - 1) / last) if count > 1 else DEPTHS - 2}") for i in range(count)]


def variables(dark: bool) -> str:
    """The colours as CSS custom properties."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())
