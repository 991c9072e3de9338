"""Method × stream: trains and judges each row from its shipped config, keeps the figures, writes docs/results.md.

    python benchmarks/family.py --data=FOLDER                      # every row that is not yet there
    python benchmarks/family.py --data=FOLDER --only=wisdm:anil,wisdm:maml
    python benchmarks/family.py --table                            # docs/results.md from the kept figures alone

FOLDER holds the data sets as folders: omniglot, mnist, wisdm-ar-v1.1, tff-shakespeare. Runs lie under --workdir and go
on where they were; figures are added to benchmarks/results/family.json after every row.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.results import pooled, run  # noqa: E402
from metapers import experiment, workdir  # noqa: E402
from metapers.experiment import lineage  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "family.json"
TABLE = ROOT / "docs" / "results.md"
MARKS = ("<!-- family:begin -->", "<!-- family:end -->")


class Stream(NamedTuple):
    """A stream's folder of data, what its rows have in common, and the methods that are its rows."""

    folder: str
    title: str
    methods: Sequence[str]
    folds: Sequence[int] = (0,)


STREAMS: dict[str, Stream] = {
    "omniglot": Stream(
        "omniglot",
        "Omniglot, 5 ways, 1 shot (accuracy)",
        ("maml", "fomaml", "meta_sgd", "maml_plus_plus", "anil", "prototypes", "ridge"),
    ),
    "writers": Stream(
        "mnist",
        "Digits by their writers, 16 examples (accuracy)",
        ("maml", "meta_sgd", "anil", "boil", "biases", "film", "reptile", "imaml", "ridge", "prototypes"),
    ),
    "wisdm": Stream(
        "wisdm-ar-v1.1",
        "Activities by person, 16 examples (accuracy)",
        (
            "maml",
            "fomaml",
            "meta_sgd",
            "maml_plus_plus",
            "imaml",
            "reptile",
            "anil",
            "boil",
            "biases",
            "cavia",
            "film",
            "lora",
            "ridge",
            "prototypes",
            "neighbours",
        ),
        (0, 1, 2, 3, 4),
    ),
    "shakespeare": Stream(
        "tff-shakespeare",
        "Next character by role, 8 windows of 40 (accuracy)",
        ("anil", "biases", "film", "lora"),
    ),
}
PUBLISHED = {  # test accuracy of the papers, where the protocol is theirs
    ("omniglot", "maml"): "98.7 ± 0.4",
    ("omniglot", "fomaml"): "98.3 ± 0.5",
    ("omniglot", "meta_sgd"): "99.53 ± 0.26",
    ("omniglot", "maml_plus_plus"): "99.47",
}


def row(name: str, method: str, data: pathlib.Path, out: pathlib.Path, overrides: list[str]) -> dict[str, Any]:
    """The figures of one row: every fold trained and judged, folds pooled."""
    stream = STREAMS[name]
    config, folders, found = f"configs/{name}.py:{method}", [], []
    for fold in stream.folds:
        folders.append(out / f"{name}-{method}-{fold}")
        change = [f"--config.data.path={data / stream.folder}"]
        change += [f"--config.data.fold={fold}"] if len(stream.folds) > 1 else []
        found.append(run(f"{name}, {method}, fold {fold}", config, folders[-1], [*change, *overrides]))
    together = pooled(folders, found, workdir.open_workdir(out / f"{name}-{method}")) if len(found) > 1 else found[0]
    return kept(together, config, overrides)


def kept(summary: dict[str, Any], config: str, overrides: list[str]) -> dict[str, Any]:
    """What the table shows of a summary, and how to get it again."""
    head = summary["headline"]
    return {
        "command": " ".join([f"train.py --config={config}", *overrides]),
        "revision": lineage.revision(),
        "machine": f"{platform.system()}, {len(os.sched_getaffinity(0))} cores",
        "metric": head["metric"],
        "shots": head["shots"],
        "steps": head["steps"],
        "seeds": summary["seeds"],
        "folds": summary["folds"],
        "users": summary["users"]["test"],
        "adapted": head["adapted"],
        "baselines": head["baselines"],
        "hurt": summary["hurt_fraction"],
        "transductive": summary["transductive"],
        "seconds": summary["seconds"],
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The kept figures as Markdown: a table for each stream."""
    parts = []
    for name, stream in STREAMS.items():
        there = [(method, figures[f"{name}:{method}"]) for method in stream.methods if f"{name}:{method}" in figures]
        if not there:
            continue
        parts += [f"### {stream.title}", "", about(there[0][1]), "", *HEAD]
        parts += [line(name, method, one) for method, one in there]
        missing = [method for method in stream.methods if f"{name}:{method}" not in figures]
        parts += ["", f"Not run yet: {', '.join(missing)}." if missing else "", ""]
    return "\n".join(parts).strip()


HEAD = [
    "| config | adapted | 95 % interval | unadapted | hurt | joint, fine-tuned | best trivial | published | minutes |",
    "|---|---|---|---|---|---|---|---|---|",
]


def about(one: dict[str, Any]) -> str:
    """What the rows of a stream have in common."""
    whom = f"{one['users']} test users" + (f" of folds {one['folds']}" if len(one["folds"]) > 1 else "")
    how = " Predictions are transductive." if one["transductive"] else ""
    return f"{whom}, {one['shots']} examples to adapt on, final version.{how}"


def line(name: str, method: str, one: dict[str, Any]) -> str:
    """One row of the table."""
    ours, others = one["adapted"], one["baselines"]
    known = trivial(others)
    best = max(known, key=lambda key: known[key], default=None)
    tuned = others.get("joint_fine_tuned")
    cells = [
        f"`{name}.py:{method}`, seeds {len(one['seeds'])}",
        f"**{100 * ours['mean']:.2f}**",
        f"{100 * ours['low']:.2f} – {100 * ours['high']:.2f}",
        f"{100 * others['unadapted']['mean']:.2f}" if "unadapted" in others else "",
        f"{one['hurt']:.1%}",
        f"{100 * tuned['mean']:.2f}" if tuned else "",
        f"{best} {100 * known[best]:.2f}" if best else "",
        PUBLISHED.get((name, method), ""),
        f"{(one['seconds']['train'] + one['seconds']['evaluate']) / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def grid(figures: dict[str, dict[str, Any]]) -> str:
    """Method × stream for the README: adapted, half the 95 % interval, and what was published."""
    there = [name for name in STREAMS if any(key.startswith(f"{name}:") for key in figures)]
    methods = [m for m in experiment.METHODS if any(f"{name}:{m}" in figures for name in there)]
    lines = ["| method | " + " | ".join(there) + " | published |", "|---" * (len(there) + 2) + "|"]
    for method in methods:
        cells = [cell(figures.get(f"{name}:{method}")) for name in there]
        published = [f"{name} {PUBLISHED[name, method]}" for name in there if (name, method) in PUBLISHED]
        lines.append(f"| {method} | {' | '.join(cells)} | {', '.join(published)} |")
    for title, key in (("joint, fine-tuned", "joint_fine_tuned"), ("best trivial", "")):
        cells = [cell(other(figures, name, key)) for name in there]
        lines.append(f"| *{title}* | {' | '.join(cells)} | |")
    return "\n".join(lines)


def other(figures: dict[str, dict[str, Any]], name: str, key: str) -> dict[str, Any] | None:
    """A baseline of the first row of a stream that has it; key "": the best of the trivial ones."""
    rows = [
        figures[f"{name}:{method}"]["baselines"] for method in STREAMS[name].methods if f"{name}:{method}" in figures
    ]
    if not key:
        found = trivial(rows[0])
        return {"adapted": rows[0][max(found, key=lambda one: found[one])]} if found else None
    return next(({"adapted": row[key]} for row in rows if key in row), None)


def cell(one: dict[str, Any] | None) -> str:
    """A figure of the grid in per cent."""
    if one is None:
        return ""
    value = one["adapted"]
    return f"{100 * value['mean']:.1f} ± {50 * (value['high'] - value['low']):.1f}"


def trivial(baselines: dict[str, Any]) -> dict[str, float]:
    """The means of the baselines that know nothing of inputs."""
    learned = ("unadapted", "joint", "joint_fine_tuned")
    return {key: row["mean"] for key, row in baselines.items() if key not in learned}


def write(figures: dict[str, dict[str, Any]]) -> None:
    """The tables between the marks of docs/results.md and of the README."""
    for path, found in ((TABLE, table(figures)), (ROOT / "README.md", grid(figures))):
        before, rest = path.read_text().split(MARKS[0])
        _, after = rest.split(MARKS[1])
        path.write_text(f"{before}{MARKS[0]}\n{found}\n{MARKS[1]}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, help="the folder of the data sets")
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "family")
    parser.add_argument("--only", default="", help="stream:method, comma between them; default: all")
    parser.add_argument("--again", action="store_true", help="rows whose figures are kept are run again")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options, overrides = parser.parse_known_args()
    figures = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    everything = [f"{name}:{method}" for name, stream in STREAMS.items() for method in stream.methods]
    chosen = options.only.split(",") if options.only else everything
    unknown = sorted(set(chosen) - set(everything))
    if unknown:
        parser.error(f"--only must name rows of {everything}, got {unknown[0]!r}")
    if not options.table:
        if options.data is None:
            parser.error("--data is missing: the folder of the data sets")
        for key in chosen:
            if key in figures and not options.again:
                continue
            name, method = key.split(":")
            figures[key] = row(name, method, options.data.resolve(), workdir.open_workdir(options.workdir), overrides)
            workdir.write_json(KEPT, figures)
            print(line(name, method, figures[key]), flush=True)
    write(figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
