"""Method × stream: trains and judges each row from its shipped config, keeps the figures, writes docs/results.md.

    python benchmarks/family.py --data=FOLDER                      # every row that is not yet there
    python benchmarks/family.py --data=FOLDER --only=wisdm:anil,wisdm:maml
    python benchmarks/family.py --table                            # docs/results.md from the kept figures alone

FOLDER holds the data sets as folders: omniglot, mnist, wisdm-ar-v1.1, tff-shakespeare; the other streams need none.
Runs lie under --workdir and go on where they were; figures are added to benchmarks/results/family.json after every row.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.results import pooled, run  # noqa: E402
from metapers import experiment, workdir  # noqa: E402
from metapers.experiment import architectures, lineage, summary  # noqa: E402
from metapers.experiment.config import OPERATIONAL  # noqa: E402
from metapers.scores import sign  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "family.json"
TABLE = ROOT / "docs" / "results.md"
MARKS = ("<!-- family:begin -->", "<!-- family:end -->")


class Stream(NamedTuple):
    """A stream's folder of data, what its rows have in common, and the methods that are its rows."""

    folder: str  # "": the stream needs no data set
    title: str
    methods: Sequence[str]
    folds: Sequence[int] = (0,)
    features: Sequence[str] = ()  # methods that begin with the features of prototypes, of the same form in BODIES


MACHINE = ("devices", "learner.block", "chunk")
"""Keys that say how a machine takes the work: no number changes by more than rounding."""
SHARED = ("--config.data.", "--config.seed=", "--config.seeds=", *(f"--config.{key}=" for key in MACHINE))
"""What features have in common with the row that begins with them."""
BODIES = ("pool", "short", "support")  # forms of a config that change the features


STREAMS: dict[str, Stream] = {
    "sinusoid": Stream(
        "",
        "Sinusoid, one inner step (mean squared error)",
        ("maml-5", "maml", "maml-20", "meta_sgd-5", "meta_sgd", "meta_sgd-20", "cavia", "bayes"),
    ),
    "omniglot": Stream(
        "omniglot",
        "Omniglot, 5 ways, 1 shot, and 20 ways (accuracy)",
        (
            *("maml", "fomaml", "meta_sgd", "maml_plus_plus", "reptile", "reptile-support", "anil"),
            *("prototypes", "prototypes-support", "ridge", "maml-20way", "fomaml-20way", "maml_plus_plus-20way"),
            *("prototypes-pool", "meta_sgd-pool-means", "maml_plus_plus-pool-means"),
            *("prototypes-pool-short", "meta_sgd-pool-short-means", "maml_plus_plus-pool-short-means"),
            *("maml-20way-drawn", "fomaml-20way-drawn", "maml-20way-pool", "maml_plus_plus-20way-pool-means"),
            *("maml-paper", "fomaml-paper", "maml-20way-paper", "fomaml-20way-paper"),
        ),
        features=(
            *("fomaml", "meta_sgd", "maml_plus_plus", "reptile", "reptile-support", "anil", "ridge"),
            *("maml-20way", "fomaml-20way", "maml_plus_plus-20way"),
            *("meta_sgd-pool-means", "maml_plus_plus-pool-means"),
            *("meta_sgd-pool-short-means", "maml_plus_plus-pool-short-means"),
            *("maml-20way-pool", "maml_plus_plus-20way-pool-means"),
        ),
    ),
    "writers": Stream(
        "mnist",
        "Digits by their writers, 16 examples (accuracy)",
        (
            *("maml", "meta_sgd", "anil", "boil", "biases", "film", "reptile", "imaml", "ridge", "prototypes", "joint"),
            "maml-if_it_helps",
        ),
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
            "joint",
        ),
        (0, 1, 2, 3, 4),
    ),
    "shakespeare": Stream(
        "tff-shakespeare",
        "Next character by role, 8 windows of 40 (accuracy)",
        ("anil", "biases", "film", "lora", "reptile", "imaml", "joint", "reptile-if_it_helps"),
    ),
    "movielens": Stream(
        "",
        "MovieLens in five periods, 16 ratings (RMSE)",
        (
            "bayes",
            "bayes-sparing",
            "gradient",
            "anil",
            "fomaml",
            "meta_sgd",
            "maml_plus_plus",
            "reptile",
            "imaml",
            "joint",
        ),
        (0, 1, 2, 3, 4),
    ),
    "ratings": Stream(
        "",
        "MovieLens, the next rating from the eight before it, 16 ratings to adapt on (RMSE)",
        ("anil", "biases", "film", "lora", "maml", "reptile", "joint", "transformer-film", "transformer-lora"),
        (0, 1, 2, 3, 4),
    ),
}
PUBLISHED = {  # the papers' figures where the task is theirs, in the units of the table; †: docs/results.md
    ("sinusoid", "maml-5"): "1.13 ± 0.18",
    ("sinusoid", "maml"): "0.77 ± 0.11",
    ("sinusoid", "maml-20"): "0.48 ± 0.08 †",
    ("sinusoid", "meta_sgd-5"): "0.90 ± 0.16",
    ("sinusoid", "meta_sgd"): "0.53 ± 0.09",
    ("sinusoid", "meta_sgd-20"): "0.31 ± 0.05 †",
    ("sinusoid", "cavia"): "0.19 ± 0.02 †",
    ("omniglot", "maml"): "98.7 ± 0.4",
    ("omniglot", "fomaml"): "98.3 ± 0.5",
    ("omniglot", "meta_sgd"): "99.53 ± 0.26",
    ("omniglot", "maml_plus_plus"): "99.47",
    ("omniglot", "reptile"): "97.7",
    ("omniglot", "reptile-support"): "95.4",
    ("omniglot", "prototypes"): "98.8",
    ("omniglot", "prototypes-pool"): "98.8",
    ("omniglot", "meta_sgd-pool-means"): "99.53 ± 0.26",
    ("omniglot", "maml_plus_plus-pool-means"): "99.47",
    ("omniglot", "prototypes-pool-short"): "98.8",
    ("omniglot", "meta_sgd-pool-short-means"): "99.53 ± 0.26",
    ("omniglot", "maml_plus_plus-pool-short-means"): "99.47",
    ("omniglot", "maml-20way"): "95.8 ± 0.3",
    ("omniglot", "maml-20way-drawn"): "95.8 ± 0.3",
    ("omniglot", "maml-20way-pool"): "95.8 ± 0.3",
    ("omniglot", "fomaml-20way"): "89.4 ± 0.5",
    ("omniglot", "fomaml-20way-drawn"): "89.4 ± 0.5",
    ("omniglot", "maml-paper"): "98.7 ± 0.4",
    ("omniglot", "fomaml-paper"): "98.3 ± 0.5",
    ("omniglot", "maml-20way-paper"): "95.8 ± 0.3",
    ("omniglot", "fomaml-20way-paper"): "89.4 ± 0.5",
    ("omniglot", "maml_plus_plus-20way"): "97.65",
    ("omniglot", "maml_plus_plus-20way-pool-means"): "97.65",
}


def row(name: str, method: str, data: pathlib.Path, out: pathlib.Path, overrides: list[str]) -> dict[str, Any]:
    """The figures of one row: every fold trained and judged, folds pooled."""
    stream, before, features = STREAMS[name], 0.0, None
    config, folders, found = f"configs/{name}.py:{method}", [], []
    shared = [one for one in overrides if one.startswith(SHARED)]
    for fold in stream.folds:
        folders.append(out / f"{name}-{method}-{fold}")
        change = [f"--config.data.path={data / stream.folder}"] if stream.folder else []
        change += [f"--config.data.fold={fold}"] if len(stream.folds) > 1 else []
        begun = []
        if method in stream.features:
            donor = "-".join(["prototypes", *(form for form in BODIES if form in method.split("-"))])
            features = out / f"{name}-{donor}-{fold}"
            own = run(f"{name}, {donor}, fold {fold}", f"configs/{name}.py:{donor}", features, [*change, *shared])
            before += own["seconds"]["train"]
            begun = [f"--config.start_from={features / 'strategies' / 'naive' / 'versions' / '0'}"]
        found.append(run(f"{name}, {method}, fold {fold}", config, folders[-1], [*change, *begun, *overrides]))
    together = pooled(folders, found, workdir.open_workdir(out / f"{name}-{method}")) if len(found) > 1 else found[0]
    command = ["benchmarks/family.py", *(["--data=FOLDER"] if stream.folder else []), f"--only={name}:{method}"]
    return kept(together, shlex.join([*command, *overrides]), before, machine(folders[0], features))


def machine(folder: pathlib.Path | None, features: pathlib.Path | None = None) -> str:
    """The host, which has judged the run, after the accelerator on which the run in the folder began, or else the
    features that it began with."""
    here = f"{platform.system()}, {len(os.sched_getaffinity(0))} cores"
    if own := accelerator(folder):
        return f"{own}; host at evaluation: {here}"
    return f"features on {theirs}; {here}" if (theirs := accelerator(features)) else here


def accelerator(folder: pathlib.Path | None) -> str:
    """What the run in the folder began on; "" for a processor, or without a folder."""
    path = folder / "machine.json" if folder is not None else None
    told = json.loads(path.read_text()) if path is not None and path.exists() else {"platform": "cpu"}
    return "" if told["platform"] == "cpu" else f"{told['count']} x {told['kind']}"


def kept(told: dict[str, Any], command: str, before: float = 0.0, where: str = "") -> dict[str, Any]:
    """What the table shows of a summary, and how to get it again; ``before``: seconds of its features;
    ``where``: what ``machine`` says."""
    head = told["headline"]
    return {
        "command": command,
        "revision": lineage.revision(),
        "machine": where or machine(None),
        "metric": head["metric"],
        "shots": head["shots"],
        "steps": head["steps"],
        "seeds": told["seeds"],
        "folds": told["folds"],
        "users": told["users"]["test"],
        "adapted": head["adapted"],
        "baselines": head["baselines"],
        "hurt": told["hurt_fraction"],
        "diverged": told.get("diverged", {"headline": 0})["headline"],
        "transductive": told["transductive"],
        "seconds": told["seconds"] | ({"features": before} if before else {}),
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The kept figures as Markdown: a table for each stream."""
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
    """Whose users the rows of a stream are about, named where they differ, and what a mark on a row means."""
    whose: dict[str, list[str]] = {}
    for method, one in rows:
        folds = f" of folds {', '.join(map(str, one['folds']))}" if len(one["folds"]) > 1 else ""
        whose.setdefault(f"{one['users']} test users{folds}", []).append(method)
    said = [whom if len(whose) == 1 else f"{whom} ({', '.join(methods)})" for whom, methods in whose.items()]
    star = any(one["transductive"] for _, one in rows)
    said += ["final version", *(["a star: transductive, the queries of a user are seen together"] if star else [])]
    return f"{'; '.join(said)}."


def line(name: str, method: str, one: dict[str, Any]) -> str:
    """One row of the table."""
    ours, others = one["adapted"], one["baselines"]
    best = best_trivial(one)
    tuned, start = others.get("joint_fine_tuned"), has_start(method)
    cells = [
        f"`{name}.py:{method}`{'*' if one['transductive'] else ''}, seeds {len(one['seeds'])}{changed(one)}"
        f"{', from features' if 'features' in one['seconds'] else ''}{elsewhere(one)}",
        str(one["shots"]),
        f"**{shown(one, ours['mean'])}**",
        f"{shown(one, ours['low'])} – {shown(one, ours['high'])}",
        shown(one, others["unadapted"]["mean"]) if start else "–",
        hurt(one) if start else "–",
        shown(one, tuned["mean"]) if tuned else "–",
        f"{best} {shown(one, others[best]['mean'])}" if best else "–",
        PUBLISHED.get((name, method), ""),
        f"{sum(one['seconds'].get(part, 0.0) for part in ('features', 'train', 'evaluate')) / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def hurt(one: dict[str, Any]) -> str:
    """The share of users whom adapting hurt, and how many diverged and were judged at their start."""
    lost = one.get("diverged", 0)  # rows of before it was counted: nobody, as anybody stopped the evaluation
    return f"{one['hurt']:.1%}" + (f", {lost} diverged" if lost else "")


def elsewhere(one: dict[str, Any]) -> str:
    """On which accelerator a row was trained, or, after "from features", those; "" for the processor that judged it."""
    trained, there, _ = one["machine"].partition("; ")
    if not there:
        return ""
    return trained.removeprefix("features") if trained.startswith("features") else f", on {trained}"


def changed(one: dict[str, Any]) -> str:
    """What a row's command set otherwise than its config does, of what can change a number by more than rounding."""
    given = [part.removeprefix("--config.") for part in shlex.split(one["command"]) if part.startswith("--config.")]
    keys = [part.split("=")[0] for part in given]
    silent = [key in MACHINE or key.split(".")[0] in OPERATIONAL for key in keys]
    return "".join(f", `{part}`" for part, quiet in zip(given, silent, strict=True) if not quiet)


def grid(figures: dict[str, dict[str, Any]]) -> str:
    """Method × stream for the README: adapted, half the 95 % interval, and what was published."""
    there = [name for name in STREAMS if any(key.startswith(f"{name}:") for key in figures)]
    every = dict.fromkeys([*experiment.METHODS, *(method for name in there for method in STREAMS[name].methods)])
    methods = [m for m in every if any(f"{name}:{m}" in figures for name in there) and m != "joint"]
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
    """A figure of a row: accuracy in per cent, else as it is with a digit more, or two of an RMSE in stars."""
    more = {"accuracy": 0, "rmse": 2}.get(one["metric"], 1)
    return f"{100 * value:.{digits}f}" if one["metric"] == "accuracy" else f"{value:.{digits + more}f}"


def best_trivial(one: dict[str, Any]) -> str | None:
    """The best of a row's baselines that know nothing of inputs; None without any."""
    means = {key: row["mean"] for key, row in one["baselines"].items() if key in summary.TRIVIAL}
    return max(means, key=lambda key: sign(one["metric"]) * means[key], default=None)


def has_start(method: str) -> bool:
    """Whether a user has a prediction before adapting: not under a head that knows nothing without examples."""
    heads = [experiment.METHODS[part].head for part in method.split("-") if part in experiment.METHODS]
    return all(not head or architectures.HEADS[head].alone for head in heads)


def known() -> dict[str, dict[str, Any]]:
    """The kept figures."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


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
    everything = [f"{name}:{method}" for name, stream in STREAMS.items() for method in stream.methods]
    chosen = options.only.split(",") if options.only else everything
    unknown = sorted(set(chosen) - set(everything))
    if unknown:
        parser.error(f"--only must name rows of {everything}, got {unknown[0]!r}")
    if options.data is None and not options.table and any(STREAMS[key.split(":")[0]].folder for key in chosen):
        parser.error("--data is missing: the folder of the data sets")
    for key in [] if options.table else chosen:
        if key in known() and not options.again:
            continue
        name, method = key.split(":")
        data = (options.data or pathlib.Path()).resolve()
        made = row(name, method, data, workdir.open_workdir(options.workdir), overrides)
        workdir.write_json(KEPT, known() | {key: made})  # read anew: another process may have added its rows since
        print(line(name, method, made), flush=True)
    write(known())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
