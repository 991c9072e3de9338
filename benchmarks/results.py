"""The figures of the README: MovieLens on all five folds, pooled, and the synthetic drifts; resumable.

    python benchmarks/results.py --workdir=runs/results

Every user is a test user in exactly one fold. Runs are made by train.py and eval.py with the shipped configs; what
is finished is not run again. Writes summary.json and report.html of the pooled records into the workdir, and the
figures with their command into benchmarks/results/.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa

from metapers import records, workdir
from metapers.experiment import config as configs
from metapers.experiment import judging, lineage, printing, summary
from metapers.experiment.config import Config
from metapers.report import write_report

ROOT = pathlib.Path(__file__).resolve().parents[1]
DRIFTS = ("sudden", "recurring")
SHOWN = ("headline", "gap", "regret", "continual", "seconds")


def run(name: str, config: str, folder: pathlib.Path, overrides: list[str]) -> dict:
    """Trains and judges one run unless it is finished; returns its summary. A run of another config is refused."""
    done, began = folder / "summary.json", time.monotonic()
    # of a finished run too: train.py then only holds the config against the run's
    train = [sys.executable, "train.py", f"--config={config}", f"--workdir={folder}", *overrides]
    judge = [] if done.exists() else [[sys.executable, "eval.py", f"--workdir={folder}"]]
    for command in (train, *judge):
        subprocess.run(command, cwd=ROOT, check=True)
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return json.loads(done.read_text())


def pooled(folders: list[pathlib.Path], summaries: list[dict], out: pathlib.Path) -> dict:
    """The summary of several folds' records together, written with its report into ``out``."""
    config = judging.opened(folders[0])
    test = pa.concat_tables([records.read_file(folder / "records" / "test.parquet") for folder in folders])
    chosen = pa.concat_tables([judging.validation_records(folder) for folder in folders])
    seconds = {part: sum(one["seconds"][part] for one in summaries) for part in summaries[0]["seconds"]}
    found = summary.summarise(
        pa.concat_tables([test, chosen]),
        config,
        provenance=[one["provenance"] for one in summaries],
        seconds=seconds,
        stages=config.data.get("stages", 1),
    )
    if "item_user_bias" in found["headline"]["baselines"]:
        found |= unused(test, chosen, config, found)
    workdir.write_json(out / "summary.json", found)
    print(f"report: {write_report(out, found, test, configs.plain(config))}")
    return found


def unused(test: pa.Table, chosen: pa.Table, config: Config, found: dict) -> dict:
    """How many test users were validation users of another fold, and the paired differences without them."""
    head = found["headline"]
    view = summary.View(
        test, head["metric"], head["shots"], head["steps"], config.data.get("stages", 1), config.evaluation.bootstrap
    )
    leader = {"strategy": head["strategy"], "steps": head["steps"], "trained_stage": config.data.get("stages", 1) - 1}
    where = {"evaluated_stage": summary.LIFE, "start": "fresh"}
    users, ours = records.per_user(view.test, view.metric, **leader, **where)
    fresh = ~np.isin(users, chosen["user"].unique().to_numpy(zero_copy_only=False))
    others = {"item_user_bias": ("item_user_bias", 0), "joint_fine_tuned": ("joint", head["steps"])}
    others = {name: key for name, key in others.items() if view.has(key[0])}
    gaps = {name: view.paired(ours[:, fresh], view.life(*key)[:, fresh]) for name, key in others.items()}
    return {"used": int((~fresh).sum()), "unused": {name: gap._asdict() for name, gap in gaps.items()}}


def _closed(gap: dict) -> str:
    return "no gap" if gap["closed"] is None else f"{gap['closed']:.0%}"


def verdicts(found: dict, synthetic: dict[str, dict]) -> list[tuple[str, bool, str]]:
    """(what must hold, whether it does, the figures) of the project's acceptance."""
    head, gap = found["headline"], found["gap"]
    rows = []
    for name, row in head["baselines"].items():
        told = f"{row['difference']:+.4f} [{row['difference_low']:+.4f}, {row['difference_high']:+.4f}]"
        share = f"{100 * row['difference'] / row['mean']:+.2f} %"
        rows.append((f"adapted below {name} ({row['mean']:.4f})", row["difference_high"] < 0, f"{told}, {share}"))
    bias = head["baselines"]["item_user_bias"]
    rows.append(("item_user_bias at most 0.922", bias["mean"] <= 0.922, f"{bias['mean']:.4f}"))
    rows.append(("at least 0.9 % below item_user_bias", bias["difference"] <= -0.009 * bias["mean"], ""))
    rows.append(("at most 35 % of users hurt", found["hurt_fraction"] <= 0.35, f"{found['hurt_fraction']:.1%}"))
    for name, one, share in (
        ("MovieLens", gap, 0.5),
        *((f"{drift} drift", synthetic[drift]["gap"], 0.8) for drift in synthetic),
    ):
        gain = one["gain_over_naive"]
        told = f"{_closed(one)}, gain {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        rows.append((f"{name}: continual closes >= {share:.0%} of the gap", (one["closed"] or 0) >= share, told))
        rows.append((f"{name}: its gain over naive excludes zero", gain["low"] > 0, ""))
        less = one["forgetting_first_less_naive"]["mean"]
        rows.append((f"{name}: forgetting_first below naive's", less < 0, f"{less:+.4f}"))
    return rows


def block(found: dict, synthetic: dict[str, dict]) -> str:
    """The figures as the README shows them."""
    head, rows = found["headline"], []
    names = {"joint_fine_tuned": "joint, fine-tuned", "item_user_bias": "item + user bias"}
    ours = head["adapted"]
    rows.append(
        f"| **{head['strategy']}, adapted** | **{ours['mean']:.4f}** | [{ours['low']:.4f}, {ours['high']:.4f}] | |"
    )
    for name, row in sorted(head["baselines"].items(), key=lambda pair: pair[1]["mean"]):
        gap = f"{row['difference']:+.4f} [{row['difference_low']:+.4f}, {row['difference_high']:+.4f}]"
        shown = names.get(name, name.replace("_", " "))
        rows.append(f"| {shown} | {row['mean']:.4f} | [{row['low']:.4f}, {row['high']:.4f}] | {gap} |")
    streams = {"MovieLens": found} | {f"{drift} drift": one for drift, one in synthetic.items()}
    continual = [
        f"| {stream}: {name} | {values['average']:.4f} | {values['forgetting_first']:+.4f} | "
        + (f"{_closed(one['gap'])} |" if name == "continual" else "|")
        for stream, one in streams.items()
        for name, values in one["continual"].items()
    ]
    lines = [
        f"From `make results`: MovieLens, all five folds, so that each of the {found['users']['test']} users is a test",
        f"user once; seeds {found['seeds']}; the first {head['shots']} ratings of a life to adapt on, all later ones",
        "to be judged on; final version; mean over users of per-user RMSE (lower is better) with a 95 % bootstrap",
        "interval over users; difference: adapted minus theirs, paired.",
        "",
        "| | RMSE | 95 % interval | difference (95 %) |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Adapting hurts {found['hurt_fraction']:.1%} of users (worse than the same model at zero steps).",
        f"{found['used']} of the users were validation users of other folds, by which hyper-parameters were chosen;",
        f"without them the difference to item + user bias is {_gap(found['unused']['item_user_bias'])}, to joint,",
        "fine-tuned",
        f"{_gap(found['unused']['joint_fine_tuned'])}.",
        "",
        "| stream: strategy, adapted | average | forgetting_first | gap closed |",
        "|---|---|---|---|",
        *continual,
        "",
        "`average` = mean over stages of −RMSE after the last stage; `forgetting_first` > 0 means forgotten; *gap",
        "closed*: of the way from naive to joint_so_far in `average`. Speed of the outer step: `benchmarks/results/`.",
    ]
    return "\n".join(lines)


def _gap(row: dict[str, float]) -> str:
    return f"{row['mean']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def fill_readme(text: str) -> None:
    """Puts the figures between the README's marks."""
    path = ROOT / "README.md"
    before, rest = path.read_text().split("<!-- figures:begin -->")
    _, after = rest.split("<!-- figures:end -->")
    path.write_text(f"{before}<!-- figures:begin -->\n{text}\n<!-- figures:end -->{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "results")
    parser.add_argument("--folds", default="0,1,2,3,4")
    kept_in = ROOT / "benchmarks" / "results"
    parser.add_argument("--save", default=str(kept_in), help="where the figures go; '' for nowhere")
    options, overrides = parser.parse_known_args()
    out = workdir.open_workdir(options.workdir)
    folds = [int(fold) for fold in options.folds.split(",")]
    folders = [out / f"movielens-fold-{fold}" for fold in folds]
    summaries = [
        run(f"fold {fold}", "configs/movielens.py", folder, [f"--config.data.fold={fold}", *overrides])
        for fold, folder in zip(folds, folders, strict=True)
    ]
    synthetic = {
        drift: run(drift, "configs/synthetic.py", out / f"synthetic-{drift}", [f"--config.data.drift={drift}"])
        for drift in DRIFTS
    }
    found = pooled(folders, summaries, out)
    print("\n" + printing.text(found))
    for drift, one in synthetic.items():
        print(f"\n{drift} drift\n" + printing.text(one))
    rows = verdicts(found, synthetic)
    print("\n" + "\n".join(f"{'holds' if holds else 'FAILS'}  {what}  {told}".rstrip() for what, holds, told in rows))
    if options.save:
        kept = {
            "command": "make results",
            "revision": lineage.revision(),
            "machine": {
                "system": platform.system(),
                "cores": len(os.sched_getaffinity(0)),
                "libraries": lineage.libraries(),
            },
            "movielens": found | {"provenance": [one["sha256"] for one in found["provenance"]]},
            "synthetic": {drift: {key: one[key] for key in SHOWN} for drift, one in synthetic.items()},
            "verdicts": [{"what": what, "holds": bool(holds), "figures": told} for what, holds, told in rows],
        }
        workdir.write_json(pathlib.Path(options.save) / "figures.json", kept)
        fill_readme(block(found, synthetic))
    return 0 if all(holds for _, holds, _ in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
