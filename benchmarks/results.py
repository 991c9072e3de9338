"""The figures of the README: MovieLens on all five folds, pooled, and the synthetic drifts.

    python benchmarks/results.py --workdir=runs/results

Every user is a test user in exactly one fold. The runs are `metapers train` and `metapers evaluate` of the shipped
configs; the same command goes on where it stopped. Writes summary.json and report.html of the pooled records into the
workdir, and the figures with their command into benchmarks/results/.
"""

import argparse
import os
import pathlib
import platform
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

from metapers import workdir  # noqa: E402
from metapers.evaluation import printing, study  # noqa: E402
from metapers.report import write_report  # noqa: E402
from metapers.run import lineage  # noqa: E402
from metapers.spec import plain  # noqa: E402

DRIFTS = ("sudden", "recurring")
ARMS = ("frozen", "fine_tune", "cumulative", "upper_bound", "continual")
BOUNDS = {"cumulative": "matched bound", "upper_bound": "upper bound"}
SHOWN = ("headline", "shares", "gap", "regret", "continual", "budget", "seconds")


def pooled(finished: list[study.Finished], out: pathlib.Path) -> dict:
    """The summary of several folds together, written with its report into ``out``."""
    found = study.pooled(finished)
    workdir.write_json(out / "summary.json", found.summary)
    print(f"report: {write_report(out, found.summary, found.test, plain(found.config))}")
    return found.summary


def _closed(way: dict) -> str:
    return "no gap" if way["closed"] is None else f"{way['closed']:.0%}"


def verdicts(found: dict, synthetic: dict[str, dict]) -> list[tuple[str, bool, str]]:
    """(what must hold, whether it does, the figures) of the project's acceptance."""
    head, gap = found["headline"], found["gap"]
    rows = []
    for name, row in head["baselines"].items():
        shown = f"{row['difference']:+.4f} [{row['difference_low']:+.4f}, {row['difference_high']:+.4f}]"
        share = f"{100 * row['difference'] / row['mean']:+.2f} %"
        rows.append((f"adapted below {name} ({row['mean']:.4f})", row["difference_high"] < 0, f"{shown}, {share}"))
    bias = head["baselines"]["item_user_bias"]
    rows.append(("at least 0.9 % below item_user_bias", bias["difference"] <= -0.009 * bias["mean"], ""))
    worse, least = found["shares"]["start"]["worse"]["mean"], found["shares"]["start"]["tolerance"]
    rows.append((f"at most 35 % of users worse than unadapted by more than {least:g}", worse <= 0.35, f"{worse:.1%}"))
    for name, one, share in (
        ("MovieLens", gap, 0.5),
        *((f"{drift} drift", synthetic[drift]["gap"], 0.8) for drift in synthetic),
    ):
        gain = one["gain_over_fine_tune"]
        for bound, called in BOUNDS.items():
            way = one["to"][bound]
            closes = f"{name}: continual closes >= {share:.0%} of the gap to {bound}, the {called}"
            rows.append((closes, (way["closed"] or 0) >= share, f"{_closed(way)}, gap {_gap(way['to_close'])}"))
        shown = f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        rows.append((f"{name}: its gain over fine_tune excludes zero", gain["low"] > 0, shown))
        less = one["forgetting_first_less_fine_tune"]["mean"]
        rows.append((f"{name}: forgetting_first below fine_tune's", less < 0, f"{less:+.4f}"))
    return rows


def block(found: dict, synthetic: dict[str, dict]) -> str:
    """The figures as the README shows them."""
    head, rows = found["headline"], []
    names = {"joint_model_fine_tuned": "joint, fine-tuned", "item_user_bias": "item + user bias"}
    ours = head["adapted"]
    rows.append(f"| **{head['arm']}, adapted** | **{ours['mean']:.4f}** | [{ours['low']:.4f}, {ours['high']:.4f}] | |")
    for name, row in sorted(head["baselines"].items(), key=lambda pair: pair[1]["mean"]):
        gap = f"{row['difference']:+.4f} [{row['difference_low']:+.4f}, {row['difference_high']:+.4f}]"
        shown = names.get(name, name.replace("_", " "))
        rows.append(f"| {shown} | {row['mean']:.4f} | [{row['low']:.4f}, {row['high']:.4f}] | {gap} |")
    streams = {"MovieLens": found} | {f"{drift} drift": one for drift, one in synthetic.items()}
    continual = [
        f"| {stream}: {name} | {values['average']:.4f} | "
        + (f"{values['forgetting_first']:+.4f} | " if "forgetting_first" in values else "| ")
        + (f"{one['budget'][name]['user_tasks']:,.0f} | " if name in one["budget"] else "| ")
        + (f"{_closed(one['gap']['to'][name])} |" if name in one["gap"]["to"] else "|")
        for stream, one in streams.items()
        for name, values in one["continual"].items()
    ]
    shares = found["shares"]["start"]
    better, worse = (_share(shares[part]) for part in ("better", "worse"))
    lines = [
        f"From `make results`: MovieLens, all five folds, so that each of the {found['users']['test']} users is a test",
        f"user once; seeds {found['seeds']}; the first {head['shots']} ratings of a user to adapt on, all later",
        "ones to evaluate on; final version; mean over users of per-user RMSE (lower is better) with a 95 % bootstrap",
        "interval over users; difference: adapted minus theirs, paired.",
        "",
        "| | RMSE | 95 % interval | difference (95 %) |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Adapted against unadapted (the same model at zero steps), by more than {shares['tolerance']:g}: {better} of",
        f"users are better, {worse} are worse. The noise of finite queries is taken off.",
        f"{found['used']} of the users were validation users of other folds, by which hyper-parameters were chosen;",
        f"without them the difference to item + user bias is {_gap(found['unused']['item_user_bias'])}, to joint,",
        "fine-tuned",
        f"{_gap(found['unused']['joint_model_fine_tuned'])}.",
        "",
        "| stream: arm, adapted | average | forgetting_first | user-tasks | gap that continual closes |",
        "|---|---|---|---|---|",
        *continual,
        "",
        "`average` = mean over periods of −RMSE after the last period; `forgetting_first` > 0 means forgotten;",
        "*user-tasks*: what the last version was trained with; *gap*: from fine_tune to this arm in `average`.",
        "cumulative trains anew on all data so far with at least as many user-tasks as continual: the matched bound.",
        "upper_bound trains on all data until validation users stop improving: the upper bound, and it has the last",
        "version alone. Speed of an outer step: `benchmarks/results/`.",
        "",
        *_failed(verdicts(found, synthetic)),
    ]
    return "\n".join(lines)


def _failed(rows: list[tuple[str, bool, str]]) -> list[str]:
    """What the project asks of these figures and they do not show."""
    failed = [f"- {what}: {shown}" if shown else f"- {what}" for what, holds, shown in rows if not holds]
    return [f"The project asks {len(rows)} things of these figures. Not shown: {len(failed)}", "", *failed]


def _share(row: dict[str, float]) -> str:
    return f"{row['mean']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


def _gap(row: dict[str, float]) -> str:
    return f"{row['mean']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def fill_readme(text: str) -> None:
    """Puts the figures between the README's marks."""
    path = ROOT / "README.md"
    before, rest = path.read_text().split("<!-- figures:begin -->")
    _, after = rest.split("<!-- figures:end -->")
    path.write_text(f"{before}<!-- figures:begin -->\n{text}\n<!-- figures:end -->{after}")


def runs_of(out: pathlib.Path, folds: list[int], overrides: list[str]) -> tuple[list[study.Run], list[study.Run]]:
    """The runs of MovieLens by fold, and of the synthetic drifts, each with ``ARMS``."""
    arms = f"--config.arms={','.join(ARMS)}"
    movielens = [
        study.Run(
            f"fold {fold}",
            "configs/movielens.py",
            out / f"movielens-fold-{fold}",
            (f"--config.data.fold={fold}", arms, *overrides),
        )
        for fold in folds
    ]
    synthetic = [
        study.Run(drift, "configs/synthetic.py", out / f"synthetic-{drift}", (f"--config.data.drift={drift}", arms))
        for drift in DRIFTS
    ]
    return movielens, synthetic


def record(found: dict, synthetic: dict[str, dict], rows: list[tuple[str, bool, str]]) -> dict:
    """What figures.json holds."""
    machine = {
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)),
        "libraries": lineage.libraries(),
    }
    return {
        "command": "make results",
        "revision": lineage.revision(),
        "machine": machine,
        "movielens": found | {"provenance": [one["sha256"] for one in found["provenance"]]},
        "synthetic": {drift: {key: one[key] for key in SHOWN} for drift, one in synthetic.items()},
        "readme": block(found, synthetic),
        "verdicts": [{"what": what, "holds": bool(holds), "figures": shown} for what, holds, shown in rows],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, default=ROOT / "runs" / "results")
    parser.add_argument("--folds", default="0,1,2,3,4")
    kept_in = ROOT / "benchmarks" / "results"
    parser.add_argument("--save", default=str(kept_in), help="where the figures go; '' for nowhere")
    options, overrides = parser.parse_known_args()
    out = workdir.open_workdir(options.workdir)
    movielens, drifts = runs_of(out, [int(fold) for fold in options.folds.split(",")], overrides)
    finished = [study.finish(one, root=ROOT) for one in movielens]
    synthetic = {one.name: study.finish(one, root=ROOT).summary for one in drifts}
    found = pooled(finished, out)
    print("\n" + printing.text(found))
    for drift, one in synthetic.items():
        print(f"\n{drift} drift\n" + printing.text(one))
    rows = verdicts(found, synthetic)
    print("\n" + "\n".join(f"{'holds' if holds else 'FAILS'}  {what}  {shown}".rstrip() for what, holds, shown in rows))
    if options.save:
        workdir.write_json(pathlib.Path(options.save) / "figures.json", record(found, synthetic, rows))
        fill_readme(block(found, synthetic))
    return 0  # what does not hold is a finding, and stands in the README


if __name__ == "__main__":
    raise SystemExit(main())
