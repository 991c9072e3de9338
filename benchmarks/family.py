"""Method × stream: trains and evaluates each row from its shipped config, records the figures, writes docs/results.md.

    python benchmarks/family.py --data=FOLDER                      # every row that is not yet there
    python benchmarks/family.py --data=FOLDER --only=wisdm:anil,wisdm:maml
    python benchmarks/family.py --table                            # docs/results.md from the recorded figures alone

FOLDER holds the data sets as folders: omniglot, mnist, wisdm-ar-v1.1, tff-shakespeare; the other streams need none.
Runs are in --workdir and go on where they stopped; figures are added to benchmarks/results/family.json after every row.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

from benchmarks.family_rows import BODIES, SHARED, STREAMS  # noqa: E402
from benchmarks.family_table import grid, line, table  # noqa: E402
from benchmarks.results import pooled  # noqa: E402
from metapers import workdir  # noqa: E402
from metapers.evaluation import study  # noqa: E402
from metapers.run import lineage  # noqa: E402

KEPT = ROOT / "benchmarks" / "results" / "family.json"
TABLE = ROOT / "docs" / "results.md"
MARKS = ("<!-- family:begin -->", "<!-- family:end -->")


def row(name: str, method: str, data: pathlib.Path, out: pathlib.Path, overrides: list[str]) -> dict[str, Any]:
    """The figures of one row: every fold trained and evaluated, folds pooled."""
    stream = STREAMS[name]
    runs = [run_of(name, method, fold, data, out, overrides) for fold in stream.folds]
    finished = [study.finish(one, root=ROOT) for one in runs]
    together = finished[0].summary
    if len(finished) > 1:
        together = pooled(finished, workdir.open_workdir(out / f"{name}-{method}"))
    command = ["benchmarks/family.py", *(["--data=FOLDER"] if stream.folder else []), f"--only={name}:{method}"]
    before = sum(one.seconds_before for one in finished)
    features = runs[-1].start.run.folder if runs[-1].start else None
    return kept(together, shlex.join([*command, *overrides]), before, machine(runs[0].folder, features))


def run_of(name: str, method: str, fold: int, data: pathlib.Path, out: pathlib.Path, overrides: list[str]) -> study.Run:
    """The run of a row on one fold; before it that of its features, where it begins with features."""
    stream, start = STREAMS[name], None
    change = [f"--config.data.path={data / stream.folder}"] if stream.folder else []
    change += [f"--config.data.fold={fold}"] if len(stream.folds) > 1 else []
    if method in stream.features:
        donor = "-".join(["prototypes", *(form for form in BODIES if form in method.split("-"))])
        shared = [one for one in overrides if one.startswith(SHARED)]
        start = study.Start(_run(name, donor, fold, out, [*change, *shared]), "fine_tune", 0)
    return _run(name, method, fold, out, [*change, *overrides])._replace(start=start)


def _run(name: str, method: str, fold: int, out: pathlib.Path, words: list[str]) -> study.Run:
    title, folder = f"{name}, {method}, fold {fold}", out / f"{name}-{method}-{fold}"
    return study.Run(title, f"configs/{name}.py:{method}", folder, tuple(words))


def machine(folder: pathlib.Path | None, features: pathlib.Path | None = None) -> str:
    """The machines of a row: the accelerator that trained it, or else its features, and the host that evaluated it."""
    here = f"{platform.system()}, {len(os.sched_getaffinity(0))} cores"
    if own := accelerator(folder):
        return f"{own}; host at evaluation: {here}"
    return f"features on {theirs}; {here}" if (theirs := accelerator(features)) else here


def accelerator(folder: pathlib.Path | None) -> str:
    """The accelerator on which the run in a folder began; "" for a processor, or without a folder."""
    path = folder / "machine.json" if folder is not None else None
    began = json.loads(path.read_text()) if path is not None and path.exists() else {"platform": "cpu"}
    return "" if began["platform"] == "cpu" else f"{began['count']} x {began['kind']}"


def kept(summary: dict[str, Any], command: str, before: float = 0.0, where: str = "") -> dict[str, Any]:
    """The record of a row: what the table shows of a summary, and the command that makes it.

    Args:
      summary: of the run, or of the pooled folds.
      command: that makes the row.
      before: seconds of training of its features.
      where: the machines, as ``machine`` gives them; empty for this host.
    """
    head = summary["headline"]
    return {
        "command": command,
        "revision": lineage.revision(),
        "machine": where or machine(None),
        "metric": head["metric"],
        "shots": head["shots"],
        "steps": head["steps"],
        "seeds": summary["seeds"],
        "folds": summary["folds"],
        "users": summary["users"]["test"],
        "adapted": head["adapted"],
        "baselines": head["baselines"],
        "hurt": summary["shares"]["start"]["worse"]["mean"],
        "diverged": summary.get("diverged", {"headline": 0})["headline"],
        "transductive": summary["transductive"],
        "seconds": summary["seconds"] | ({"features": before} if before else {}),
    }


def known() -> dict[str, dict[str, Any]]:
    """The recorded figures."""
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
    parser.add_argument("--again", action="store_true", help="rows with recorded figures are run again")
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
