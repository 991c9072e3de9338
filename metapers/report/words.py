"""The report in words: numbers as text, names of axes, what each arm and metric is, the verdict."""

from collections.abc import Mapping
from typing import Any

from metapers.evaluation import choices
from metapers.journal import counted
from metapers.members import registry
from metapers.report.points import strongest
from metapers.tasks.facts import SourceFacts

METRICS = {"rmse": "RMSE", "mae": "MAE", "mse": "MSE", "nll": "NLL", "accuracy": "accuracy"}
MEANINGS = {
    "frozen": "trained on the first period only",
    "fine_tune": "trained on each period in turn",
    "cumulative": "trained anew on all periods so far, with as many user-tasks",
    "upper_bound": "trained on all periods until validation users stop improving",
    "continual": "each period in turn, with memory and penalties",
    "joint_model": "all periods at once, no inner loop, as trained",
    "joint_model_fine_tuned": "the joint model, fine-tuned on the support",
    "oracle": "the Bayes-optimal prediction; the truth is known",
}
EXPLAINED = {
    "average": "the last version, all periods",
    "past": "each version on the periods that it has seen",
    "next": "each version on the period after it",
    "learning": "just after each period was learned",
    "bwt": "change since then; below 0: forgetting",
    "bti": "the same, over all T periods",
    "forgetting_max": "lost from the best so far; above 0 is worse",
    "forgetting_first": "lost since learned; above 0 is worse",
    "fwt": "head start on a period not yet seen",
}


def meaning(name: str) -> str:
    """What an arm or a baseline is, in a few words; empty for a name that is neither."""
    if name in registry("baseline"):
        return registry("baseline")[name].about()
    return MEANINGS.get(name, "")


def number(value: float, *, sign: bool = False, places: int = 4) -> str:
    """A score as text, with a true minus.

    >>> number(-0.03127, sign=True), number(0.5, sign=True, places=2), number(38123.25)
    ('−0.0313', '+0.50', '38,123.2')
    """
    places = places if abs(value) < 1000 else 1
    text = f"{value:{'+' if sign else ''},.{places}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) or not sign else text.lstrip("+-")


def interval(row: Mapping[str, float], prefix: str = "", *, sign: bool = False, places: int = 4) -> str:
    """The ends of an interval: ``[low, high]``."""
    return f"[{', '.join(number(row[f'{prefix}{end}'], sign=sign, places=places) for end in ('low', 'high'))}]"


def share(value: float) -> str:
    """A fraction as a percentage.

    >>> share(0.3312), share(0.004), share(0.0), share(1.0)
    ('33 %', '0.4 %', '0 %', '100 %')
    """
    percent = 100 * value
    return f"{percent:.1f} %".replace("-", "−") if 0 < abs(percent) < 9.95 else f"{percent:.0f} %".replace("-", "−")


def metric_name(metric: str) -> str:
    """The metric as it is written in a sentence."""
    return METRICS.get(metric, metric)


def examples(config: Mapping[str, Any]) -> str:
    """What the examples of the source are called: ratings, or examples."""
    return _facts(config).examples


def _facts(config: Mapping[str, Any]) -> SourceFacts:
    name = config.get("data", {}).get("name", "")
    facts = registry("source")[name].facts if name in registry("source") else None
    return facts or SourceFacts()


def score_axis(summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Name, unit and good direction of the score."""
    head = summary["headline"]
    unit = {"accuracy": "share of queries", "nll": "nats"}.get(head["metric"])
    unit = unit or _facts(config).unit
    unit = f"{unit}, squared" if head["metric"] == "mse" else unit
    return f"{metric_name(head['metric'])} ({unit}), {'higher' if head['larger_is_better'] else 'lower'} is better"


def judged(row: Mapping[str, float], larger_is_better: bool) -> int:
    """+1 where the paired interval says that ours is better, -1 worse, 0 where it does not exclude zero."""
    if row["difference_low"] <= 0 <= row["difference_high"]:
        return 0
    return 1 if (row["difference"] > 0) == larger_is_better else -1


def verdict(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What came out, in sentences: the first is the headline; none claims more than its interval."""
    head, metric = summary["headline"], metric_name(summary["headline"]["metric"])
    steps = counted(head["steps"], "inner step")
    what = examples(config) if head["shots"] != 1 else examples(config)[:-1]
    lead = (
        f"After {steps} on {head['shots']} {what}, {head['arm']} reaches "
        f"{number(head['adapted']['mean'], places=3)} {metric} {interval(head['adapted'], places=3)}"
    )
    name = strongest(summary)
    if name:
        lead += f", {_against(summary, name)}"
    return [
        f"{lead}.",
        shares("start", summary["shares"]["start"]),
        *_adapting(summary, name),
        *_continual(summary),
        *_oracle(summary),
        *_caution(summary),
    ]


def shares(name: str, row: Mapping[str, Any]) -> str:
    """Which share of users adapting makes clearly better, and which clearly worse."""
    against = "the unadapted start" if name == "start" else name
    better, worse = (f"{share(one['mean'])} [{share(one['low'])}, {share(one['high'])}]" for one in _both(row))
    return (
        f"Against {against}, {better} of {row['users']} users are better by more than {row['tolerance']:g}, "
        f"and {worse} are worse by more than that."
    )


def _both(row: Mapping[str, Any]) -> tuple[Mapping[str, float], Mapping[str, float]]:
    return row["better"], row["worse"]


def _against(summary: Mapping[str, Any], name: str) -> str:
    head = summary["headline"]
    row, larger = head["baselines"][name], head["larger_is_better"]
    called = f"{name}, the strongest comparison" if len(head["baselines"]) > 1 else name
    if name == "unadapted":
        called = f"the unadapted start of {head['unadapted']['of']}"
    size, ends = apart(row, larger), interval(row, "difference_", sign=True, places=3)
    side = "above" if row["difference"] > 0 else "below"
    found = judged(row, larger)
    if found == 0:
        gap = number(row["difference"], sign=True, places=3)
        return f"which cannot be told from {called} (paired difference {gap} {ends} includes zero)"
    if found > 0:
        return f"{size} {side} {called} (paired 95 % interval {ends} excludes zero)"
    return f"{size} {side} {called}, and so worse than it (paired 95 % interval {ends} excludes zero)"


def apart(row: Mapping[str, float], larger_is_better: bool) -> str:
    """The size of a difference: in percent of theirs for a loss, in points for a share."""
    if larger_is_better or row["mean"] <= 0:
        return number(abs(row["difference"]), places=3)
    return f"{100 * abs(row['difference']) / row['mean']:.1f} %"


def _adapting(summary: Mapping[str, Any], said: str | None) -> list[str]:
    head = summary["headline"]
    row = head["baselines"].get("unadapted")
    if row is None or said == "unadapted":
        return []
    found = judged(row, head["larger_is_better"])
    said = {1: "adapting is better", 0: "adapting cannot be told apart", -1: "adapting is worse"}[found]
    return [
        f"Against the best unadapted start ({head['unadapted']['of']}, {number(row['mean'], places=3)}) {said}: "
        f"paired difference {number(row['difference'], sign=True, places=3)} "
        f"{interval(row, 'difference_', sign=True, places=3)}."
    ]


def _continual(summary: Mapping[str, Any]) -> list[str]:
    gap = summary["gap"]
    if not gap:
        return []
    gain, name = gap["gain_over_fine_tune"], gap["arm"]
    clear = not gain["low"] <= 0 <= gain["high"]
    said = f"is {'better' if gain['mean'] > 0 else 'worse'} than" if clear else "cannot be told from"
    text = (
        f"Kept over all periods, {name} {said} fine_tune: paired gain {number(gain['mean'], sign=True, places=3)} "
        f"{interval(gain, sign=True, places=3)}"
    )
    ways = [f"{share(row['closed'])} of the way to {to}" for to, row in gap["to"].items() if row["closed"] is not None]
    return [f"{', '.join([text, *(ways if clear and gain['mean'] > 0 else ())])}."]


def _oracle(summary: Mapping[str, Any]) -> list[str]:
    regret = (summary["regret"] or {}).get(summary["headline"]["arm"])
    if regret is None:
        return []
    return [f"The Bayes-optimal prediction is {number(regret['mean'], places=3)} better {interval(regret, places=3)}."]


def _caution(summary: Mapping[str, Any]) -> list[str]:
    seeds, found = len(summary["seeds"]), []
    over = summary["headline"]["over_seeds"]
    if over is None:
        found.append("One seed: nothing is known of the spread over seeds.")
    else:
        found.append(f"Over {seeds} seeds the 95 % interval (Student's t) is {interval(over, places=3)}.")
    if summary["transductive"]:
        found.append("Predictions are transductive: the model saw all queries of a user at once.")
    found += [*choices.edges(summary.get("chosen", {})), *choices.worse_rows(summary)]
    if summary["short"]:
        shots = summary["headline"]["shots"]
        found.append(f"{summary['short']} users and periods had fewer than {shots} to adapt on.")
    lost = summary.get("diverged", {"anywhere": 0})
    if lost["anywhere"]:
        found.append(
            f"Adapting diverged for {lost['headline']} users and periods at the headline and {lost['anywhere']} at "
            "some shots and steps: these were judged at their start."
        )
    return found


def gap(summary: Mapping[str, Any]) -> str:
    """How far the run's arm and the bounds are from fine_tune in what is kept, and in forgetting."""
    found = summary["gap"]

    def said(row: Mapping[str, float]) -> str:
        return f"{number(row['mean'], sign=True)} {interval(row, sign=True)}"

    text = f"Over fine_tune, in average: {found['arm']} {said(found['gain_over_fine_tune'])}"
    for name, row in found["to"].items():
        closed = "there is no gap to close" if row["closed"] is None else f"{share(row['closed'])} of it closed"
        text += f"; {name} {said(row['to_close'])}: {closed}"
    less = found["forgetting_first_less_fine_tune"]
    return f"{text}. In forgetting_first: {said(less)}." if less else f"{text}."
