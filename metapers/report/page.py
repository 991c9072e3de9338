"""The report: one self-contained page, and its pictures as files."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from metapers._version import __version__
from metapers.evaluation import choices
from metapers.report import drawing, periods, pictures, points, tables, words
from metapers.report.pictures import Picture
from metapers.report.style import SHEET
from metapers.report.tables import escaped
from metapers.scoring import records
from metapers.workdir import read_json

SHOWN = ("source", "version", "sha256", "data_sha256", "fold", "periods", "users", "examples", "dropped_segments")
Section = tuple[str, str, str]  # anchor, title, HTML


def write_report(folder: Path, summary: Mapping[str, Any], table: pa.Table, config: Mapping[str, Any]) -> Path:
    """Writes ``report.html`` and ``pictures/*.png`` into ``folder``, each whole or not at all; returns the page's path.

    ``summary``: of ``evaluation.summary.summarise`` (docs/summary.md); ``table``: test records, of one run or of
    several folds together; ``config``: plain nested dict. The page reads nothing from the network, and the same
    arguments give the same bytes.

    Raises ValueError where the records lack a point of a curve.
    """
    folder = Path(folder)
    found = points.read(table, summary, config.get("evaluation", {}).get("bootstrap", 2000))
    with drawing.styled():
        drawn = _drawn(found, summary, config)
        for picture in drawn.values():
            drawing.save_png(picture.figure, folder / "pictures" / f"{picture.name}.png")
            picture.figure.set_layout_engine("none")  # what was laid out for the file holds for the page
        figures = {name: _figure(picture) for name, picture in drawn.items()}
    sections = [*_results(found, summary, config, figures), *_origins(folder, summary, config)]
    path = folder / "report.html"
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(_page(summary, config, sections), encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def report_of(folder: str | Path) -> Path:
    """``write_report`` of the run in a workdir, from what its evaluation wrote there.

    Raises:
      FileNotFoundError: for a folder without summary.json, records or config.json.
    """
    folder = Path(folder)
    summary = read_json(folder / "summary.json")
    table = records.read_file(folder / "records" / "test.parquet", points.needed(summary))
    return write_report(folder, summary, table, read_json(folder / "config.json"))


def _drawn(found: points.Found, summary: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Picture]:
    drawn = [draw(found, summary, config) for draw in (pictures.over_steps, pictures.over_shots, pictures.users)]
    if summary["matrix"]:
        drawn.append(periods.matrices(summary, config))
        if len(summary["periods"]) > 1:
            drawn.append(periods.forgetting(summary, config))
    if found.banked:
        drawn.append(periods.bank(found.banked, summary, config))
    if summary["regret"]:
        drawn.append(periods.regret(summary, config))
    return {picture.name: picture for picture in drawn}


def _figure(picture: Picture) -> str:
    narrow = " narrow" if picture.figure.get_figwidth() < pictures.WIDTH else ""
    drawn = drawing.inline_svg(picture.figure, picture.name)
    return (
        f'<figure><div class="plate{narrow}" role="img" aria-label="{escaped(picture.alt)}">{drawn}</div>'
        f"<figcaption>{escaped(picture.caption)}</figcaption></figure>"
    )


def _results(
    found: points.Found, summary: Mapping[str, Any], config: Mapping[str, Any], figures: Mapping[str, str]
) -> list[Section]:
    pick = lambda *names: "\n".join(figures[name] for name in names if name in figures)
    sections = [
        ("headline", "Headline", _counted(summary, config) + tables.headline(summary)),
        ("curves", "Adaptation curves", pick("adaptation_steps", "adaptation_shots")),
        ("users", "Which users gain, and which are worse than unadapted", _shares(summary) + pick("users")),
    ]
    if summary["matrix"]:
        sections.append(("matrix", "Trained period by evaluated period", pick("matrix")))
    if "forgetting" in figures:
        sections.append(("forgetting", "Forgetting over periods", pick("forgetting")))
    if summary["continual"]:
        sections.append(("continual", "Continual metrics", _metrics(summary)))
    if found.banked:
        text = "".join(f"<p>{escaped(line)}</p>" for line in choices.worse_rows(summary))
        text += tables.banked(found.banked, summary)
        sections.append(("bank", "Users who return: banked or fresh", text + pick("bank")))
    if summary["regret"]:
        sections.append(
            ("regret", "Regret against the oracle", f'<div class="pair">{pick("regret")}{tables.regret(summary)}</div>')
        )
    text = "<p class=note>The last version of each arm on the users of each period; arms adapted.</p>"
    sections.append(
        ("arms", "Arms and periods", tables.arms(summary) + text + tables.periods(summary) + tables.budget(summary))
    )
    return sections


def _counted(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    head, seeds, folds = summary["headline"], summary["seeds"], summary["folds"]
    direction = "higher" if head["larger_is_better"] else "lower"
    text = (
        f"{words.metric_name(head['metric'])}, {direction} is better: mean over {summary['users']['test']:,} test "
        f"users (fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}), {len(seeds)} "
        f"seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}) averaged first; whole lives, last "
        f"version, {head['shots']} {words.examples(config)} as support. "
        "Intervals: 95 % over users (bootstrap; below 50 users Student's t); differences paired by user. "
        "Worst tenth: mean of the users with the worst scores."
    )
    return f'<p class="note">{escaped(text)}</p>'


def _shares(summary: Mapping[str, Any]) -> str:
    parts = [words.shares(name, row) for name, row in summary["shares"].items()]
    return "".join(f"<p>{escaped(part)}</p>" for part in parts)


def _metrics(summary: Mapping[str, Any]) -> str:
    note = (
        "Of the matrix R of adapted scores, R[i,t]: trained up to period i, evaluated on period t, periods counted "
        "from 1 to T. Larger is better: a loss enters as its negative. Intervals: 95 % over users, "
        "each with all periods."
    )
    gap = f"<p>{escaped(words.gap(summary))}</p>" if summary["gap"] else ""
    start = f"<details><summary>The same without inner steps</summary>{tables.continual_at_start(summary)}</details>"
    return f'<p class="note">{escaped(note)}</p>{tables.continual(summary)}{gap}{start}'


def _origins(folder: Path, summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[Section]:
    held = summary["provenance"]
    several = isinstance(held, Sequence)
    text = "".join(_provenance(one, several) for one in (held if several else [held]))
    uses = folder / "test_uses.jsonl"
    if uses.is_file():
        count = len(uses.read_text().splitlines())
        times = "once" if count == 1 else f"{count} times"
        text += f'<p class="note">The test users of this run have been evaluated {times}.</p>'
    seconds = summary["seconds"]
    took = "".join(f"<dt>{escaped(part)}</dt><dd>{value:,.1f} s</dd>" for part, value in seconds.items())
    shown = escaped(json.dumps(config, indent=2, ensure_ascii=False, default=str))
    return [
        ("provenance", "Where the data came from", text),
        ("seconds", "Seconds", f"<dl>{took}</dl>"),
        ("config", "Config", f"<details><summary>every key</summary><pre>{shown}</pre></details>"),
    ]


def _provenance(held: Mapping[str, Any], several: bool) -> str:
    first = {name: held[name] for name in SHOWN if name in held}
    rest = {name: value for name, value in held.items() if name not in (*SHOWN, "splits", "boundaries")}
    rows = "".join(f"<dt>{escaped(name)}</dt><dd>{_value(name, value)}</dd>" for name, value in first.items())
    title = f"<h3>Fold {escaped(held.get('fold', '?'))}</h3>" if several else ""
    counted = tables.counts(held) if held.get("splits") else ""
    shown = escaped(json.dumps(rest, indent=2, ensure_ascii=False, default=str))
    more = f"<details><summary>more of the source</summary><pre>{shown}</pre></details>" if rest else ""
    return f"{title}<dl>{rows}</dl>{counted}{more}"


def _value(name: str, value: Any) -> str:
    if name.endswith("sha256"):
        return f"<code>{escaped(value)}</code>"
    return f"{value:,}" if isinstance(value, int) else escaped(value)


def _page(summary: Mapping[str, Any], config: Mapping[str, Any], sections: Sequence[Section]) -> str:
    name = summary["name"] or config.get("data", {}).get("name", "") or "run"
    lead, *more = words.verdict(summary, config)
    links = "".join(f'<a href="#{anchor}">{escaped(title)}</a>' for anchor, title, _ in sections)
    body = "\n".join(
        f'<section id="{anchor}"><h2>{escaped(title)}</h2>\n{text}</section>' for anchor, title, text in sections
    )
    points_said = "".join(f"<li>{escaped(sentence)}</li>" for sentence in more)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" '
        'content="light dark">\n'
        f"<title>{escaped(name)} · metapers</title>\n<style>{SHEET}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{escaped(name)}</h1>\n<p class="lead">{escaped(lead)}</p>\n<ul '
        f'class="more">{points_said}</ul></header>\n'
        f"<nav>{links}</nav>\n{body}\n"
        f"<footer>metapers {escaped(__version__)}; the numbers of this page are in summary.json, the scores behind "
        "them in "
        "records/, the pictures as files in pictures/.</footer>\n</main>\n</body>\n</html>\n"
    )
