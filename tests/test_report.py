"""The report: one page that says what the summary says, honestly, with pictures that are there."""

import itertools
import os
import pathlib
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest

from metapers import spec
from metapers.evaluation import summary as summaries
from metapers.members import plugin_of, registry
from metapers.report import drawing, page, periods, pictures, points, tables, words, write_report
from metapers.scores import bootstrap, mean_interval
from metapers.scores.bootstrap import ends
from metapers.scoring.records import SCHEMA, user_hash

pytestmark = pytest.mark.xdist_group("report")

SHOTS, STEPS, USERS, SEEDS = (1, 4, 16), (0, 1, 5), 30, 2
ARMS = ("frozen", "fine_tune", "cumulative", "continual")
BASELINES = tuple(name for name in registry("baseline") if plugin_of("baseline", name) is None)
OTHERS = {"fine_tune": {}, "er": {"penalties": ()}, "zebra": {"memory": "none"}}
VOID = {"meta", "br", "link", "img", "input", "hr"}
OFFSETS = {
    "frozen": 0.3,
    "fine_tune": 0.2,
    "cumulative": 0.05,
    "upper_bound": 0.02,
    "continual": 0.0,
    "joint_model": 0.2,
}
OFFSETS |= {
    "global_mean": 0.8,
    "user_mean": 0.7,
    "user_last": 0.72,
    "user_ewma": 0.69,
    "class_prior": 0.9,
    "user_frequency": 0.75,
    "bigram": 0.65,
    "item_recent_bias": 0.6,
    "oracle": -0.2,
}


def block(rng, arm, split, fold, trained, evaluated, users, *, start="fresh", level=1.0):
    """Rows of one arm and version on some users; a loss that falls with shots and steps."""
    plain = arm in (*BASELINES, "oracle")
    steps, seeds = ((0,), (0,)) if plain else (STEPS, tuple(range(SEEDS)))
    place = list(itertools.product(range(len(users)), seeds, SHOTS, steps))
    own = level + 0.1 * rng.standard_normal(len(users))
    values = [
        own[user] + OFFSETS.get(arm, 0.85) - (0.02 * step * shots**0.25 if not plain else 0) + 0.01 * seed
        for user, seed, shots, step in place
    ]
    user, seed, shot, step = zip(*place, strict=True)
    count = len(place)
    columns = {
        "arm": [arm] * count,
        "split": [split] * count,
        "seed": seed,
        "fold": [fold] * count,
        "version": [trained] * count,
        "boundary": [trained] * count,
        "seen_until": [trained] * count,
        "period": [evaluated] * count,
        "user": [users[i] for i in user],
        "returning": [start == "banked"] * count,
        "start": [start] * count,
        "shots": shot,
        "steps": step,
        "n_support": shot,
        "n_query": [8] * count,
        "metric": ["rmse"] * count,
        "value": values,
    }
    return pa.table(columns, schema=SCHEMA)


def records(*, periods, oracle, folds, arms, bias):
    """A whole run's records, or several folds'; ``bias``: how much worse item_user_bias is than continual adapted."""
    rng, found = np.random.default_rng(0), []
    more = np.random.default_rng(1)  # another baseline leaves the arms as they are
    OFFSETS["item_user_bias"] = bias - 0.2
    for fold, split in itertools.product(folds, ("validation", "test")):
        users = sorted(user_hash(f"{split}-{fold}-{i}") for i in range(USERS))
        of_period = [users[period::periods] for period in range(periods)]
        where = [(-1, users), *enumerate(of_period)]
        for evaluated, chosen in where:
            for name in arms:
                for trained in (-1, periods - 1) if name == "upper_bound" else range(-1, periods):
                    worse = 1.3 if trained < 0 else 1.0 + 0.02 * abs(trained - evaluated) * (evaluated >= 0)
                    found.append(block(rng, name, split, fold, trained, evaluated, chosen, level=worse))
            others = ("joint_model", *BASELINES, *(["oracle"] if oracle else []))
            found += [block(more, name, split, fold, periods - 1, evaluated, chosen) for name in others]
        for period, name in itertools.product(range(1, periods), [one for one in arms if one != "upper_bound"]):
            found.append(
                block(rng, name, split, fold, period, period, of_period[period][:4], start="banked", level=0.8)
            )
    return pa.concat_tables(found)


def told(*, periods=3, oracle=True, folds=(0,), arms=ARMS, bias=0.1):
    """The test records, the summary and the config of such a run."""
    table = records(periods=periods, oracle=oracle, folds=folds, arms=arms, bias=bias)
    config = spec.config_for("movielens", "linear")
    config.seeds = SEEDS
    spec.choose(config, "arms", arms)
    config.evaluation.shots, config.evaluation.steps, config.evaluation.bootstrap = SHOTS, STEPS, 200
    counts = [{"users": 10 + period, "examples": 1234 + period} for period in range(periods)]
    about = {"source": "films", "version": "7", "sha256": "ab" * 32, "license": "<b>&"}
    about |= {"boundaries": [86400.0 * (i + 1) for i in range(periods - 1)]}
    about |= {"splits": dict.fromkeys(("train", "validation", "test"), counts)}
    provenance = [about | {"fold": fold} for fold in folds]
    summary = summaries.summarise(table, config, provenance=provenance, seconds={"train": 12.34}, periods=periods)
    return summary, table.filter(pa.array(np.asarray(table["split"]) == "test")), spec.plain(config)


def made(folder, **options):
    """A report with everything that went into it."""
    summary, table, config = told(**options)
    path = write_report(folder, summary, table, config)
    return SimpleNamespace(summary=summary, table=table, config=config, path=path, html=path.read_text(), folder=folder)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return made(tmp_path_factory.mktemp("whole"))


class Nesting(HTMLParser):
    """Every element is closed in the order in which it was opened; ids, links and words are kept."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        for name in ("href", "src"):
            self.links += [found[name]] if name in found else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:], self.getpos())
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)


def check_page(html):
    """One well-formed file that asks nothing of the network; returns its text."""
    read = Nesting()
    read.feed(html)
    read.close()
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in read.links), read.links
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", html)) <= set(read.ids)
    assert not re.search(r"https?:|<script|@import|<link|url\((?!#)", html)
    return "".join(read.words)


def check_pictures(folder, expected):
    found = {path.name: matplotlib.image.imread(path) for path in (folder / "pictures").iterdir()}
    assert sorted(found) == sorted(f"{name}.png" for name in expected)
    for name, pixels in found.items():
        assert pixels[..., :3].std() > 0.03, name
        assert pixels.shape[1] > 800, name


SHARES = {
    "start": {
        "better": {"mean": 0.5, "low": 0.4, "high": 0.6},
        "same": {"mean": 0.169, "low": 0.1, "high": 0.2},
        "worse": {"mean": 0.331, "low": 0.25, "high": 0.41},
        "tolerance": 0.05,
        "noise": 0.1,
        "users": 30,
    }
}
BUDGET = {"outer_steps": 7, "user_tasks": 1234, "gradient_evaluations": 2468, "state_bytes": 99000, "seconds": 3.5}
ALWAYS = ["adaptation_shots", "adaptation_steps", "matrix", "users"]


def test_page_is_one_well_formed_file_with_all_its_parts(report):
    text = check_page(report.html)
    check_pictures(report.folder, [*ALWAYS, "bank", "forgetting", "regret"])
    anchors = re.findall(r'<section id="(\w+)">', report.html)
    assert anchors[:4] == ["headline", "curves", "users", "matrix"]
    assert anchors[4:] == ["forgetting", "continual", "bank", "regret", "arms", "provenance", "seconds", "config"]
    assert report.html.count("<svg viewBox") == 7
    sheet = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*\s*\}", "", report.html.split("<style>")[1].split("</style>")[0])
    assert sheet.count("{") == sheet.count("}") and "display: none" not in sheet  # print's rules are print's alone
    for rule in (
        "@media (prefers-color-scheme: dark) { :root { --paper: #14181c;",
        "@media print { :root { --paper: #fefefe;",
    ):
        assert rule in report.html
    assert "ab" * 32 in text and "1970-01-02 to 1970-01-03" in text and "1,234" in text and "12.3 s" in text
    assert '"bootstrap": 200' in text and "<b>&" in text  # the config; what was text stays text


def test_page_holds_the_numbers_of_the_summary(report):
    text, head = check_page(report.html), report.summary["headline"]
    rows = [head["adapted"], *head["baselines"].values(), *head["arms"].values()]
    for row in rows:
        for key in ("mean", "low", "high", "worst_decile", "start"):
            assert key not in row or f"{row[key]:.4f}" in text, (key, row)
    for row in head["baselines"].values():
        assert words.number(row["difference"], sign=True) in text
    for found in report.summary["continual_intervals"].values():
        for row in found.values():
            assert words.number(row["mean"]) in text and words.interval(row) in text
    for matrix in report.summary["matrix"].values():
        for value in np.ravel(matrix):
            assert f"{value:.3f}" in text
    for row in report.summary["banked"]:
        assert f"{row['banked_0']:.4f}" in text and f"{row['fresh_5']:.4f}" in text
    for row in report.summary["regret"].values():
        assert words.interval(row) in text


@pytest.mark.parametrize(
    "options, missing",
    [
        ({"periods": 1}, {"forgetting", "bank"}),
        ({"arms": ("fine_tune",), "periods": 2, "folds": (0, 1)}, set()),
        ({"arms": OTHERS, "periods": 2, "oracle": False}, {"regret"}),
    ],
    ids=["one period", "one arm, two folds", "arms of other names, no oracle"],
)
def test_page_without_a_part_and_of_several_folds(tmp_path, options, missing):
    text = check_page(made(tmp_path, **options).html)
    check_pictures(tmp_path, [*ALWAYS, *({"bank", "forgetting", "regret"} - missing)])
    assert "nan" not in text.lower().split() and all(name in text for name in options.get("arms", ()))
    folds = options.get("folds", (0,))
    assert len(folds) == 1 or all(f"Fold {fold}" in text for fold in folds)
    named = "folds 0, 1" if len(folds) > 1 else "fold 0"
    assert f"{len(folds) * USERS} test users ({named})" in text


def test_same_arguments_give_the_same_bytes_and_no_litter(report, tmp_path):
    again = write_report(tmp_path, report.summary, report.table, report.config)
    assert again.read_bytes() == report.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "report.html"]


def test_a_failed_write_leaves_the_old_page_and_pictures(report, tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "pictures").mkdir()
    replace = os.replace
    monkeypatch.setattr(page, "_drawn", lambda *given: {"users": pictures.users(*given)})  # one picture is enough
    for full in ("users.png", "report.html"):
        (tmp_path / "pictures" / "users.png").write_text("old")

        def refuse(source, target, full=full):
            if pathlib.Path(target).name == full:
                raise OSError("full")
            replace(source, target)

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="full"):
            write_report(tmp_path, report.summary, report.table, report.config)
        assert (tmp_path / "report.html").read_text() == "old"
        assert not [path for path in tmp_path.rglob("*.part")]
        assert ((tmp_path / "pictures" / "users.png").read_bytes() == b"old") == (full == "users.png")


def test_records_with_a_hole_are_refused(report, tmp_path):
    names = np.asarray(report.table["arm"]) == "continual"
    lives = np.asarray(report.table["period"]) == -1
    last = np.asarray(report.table["version"]) == 2
    keep = np.ones(len(names), bool)
    keep[np.flatnonzero(names & lives & last)[0]] = False
    with pytest.raises(ValueError, match=r"each of \(2, 30, 3, 3\).* got 539 rows"):
        write_report(tmp_path, report.summary, report.table.filter(pa.array(keep)), report.config)


def test_every_field_of_the_summary_is_in_its_schema(report):
    text = (pathlib.Path(__file__).resolve().parents[1] / "docs" / "summary.md").read_text()
    head = report.summary["headline"]
    fields = {*report.summary, *head, *head["baselines"], *head["baselines"]["joint_model"], *report.summary["gap"]}
    fields |= {*report.summary["gap"]["to"]["cumulative"], *report.summary["shares"]["start"], *BUDGET}
    fields |= {*report.summary["banked"][0]} - {"banked_0", "banked_5", "fresh_0", "fresh_5"}
    fields |= {*report.summary["continual"]["fine_tune"], *report.summary["seconds"], *report.summary["users"]}
    assert sorted(name for name in fields if f"`{name}`" not in text and f'"{name}"' not in text) == []


@pytest.mark.parametrize(
    "low, high, difference, says, never",
    [
        (-0.03, -0.01, -0.02, "2.0 % below item_user_bias", "worse"),
        (-0.03, 0.01, -0.01, "cannot be told from item_user_bias", "below"),
        (-0.01, 0.03, 0.01, "cannot be told from item_user_bias", "above"),
        (0.01, 0.03, 0.02, "2.0 % above item_user_bias, the strongest comparison, and so worse", "below"),
    ],
)
def test_verdict_claims_no_more_than_the_interval(report, low, high, difference, says, never):
    head = {**report.summary["headline"]}
    row = {"mean": 1.0, "difference": difference, "difference_low": low, "difference_high": high}
    head["baselines"] = {"unadapted": {**row, "mean": 1.5}, "item_user_bias": row, "oracle": {**row, "mean": 0.1}}
    lead, who, *_ = words.verdict({**report.summary, "headline": head, "shares": SHARES}, report.config)
    assert says in lead and never not in lead.split(";")[0]
    assert "includes zero" in lead if low < 0 < high else "excludes zero" in lead
    assert "After 5 inner steps on 16 ratings, continual reaches" in lead
    assert who == (
        "Against the unadapted start, 50 % [40 %, 60 %] of 30 users are better by more than 0.05, and "
        "33 % [25 %, 41 %] are worse by more than that."
    )


def test_verdict_of_a_share_counts_up(report):
    head = {**report.summary["headline"], "metric": "accuracy", "larger_is_better": True}
    row = {"mean": 0.6, "difference": 0.05, "difference_low": 0.02, "difference_high": 0.08}
    head["baselines"] = {"unadapted": {**row, "mean": 0.3}, "joint_model": row}
    lead, _, second, *_ = words.verdict({**report.summary, "headline": head}, report.config)
    assert "accuracy" in lead and "0.050 above joint_model" in lead and "worse" not in lead
    assert "adapting is better" in second


def test_verdict_says_when_adapting_itself_hurts(report):
    head = {**report.summary["headline"]}
    row = {"mean": 0.5, "difference": 0.1, "difference_low": 0.05, "difference_high": 0.15}
    head["baselines"] = {"unadapted": row, "global_mean": {**row, "mean": 0.9}}
    lead = words.verdict({**report.summary, "headline": head}, report.config)[0]
    assert f"20.0 % above the unadapted start of {head['unadapted']['of']}, and so worse" in lead


def test_a_clear_loss_is_called_one():
    summary, _, config = told(bias=-0.3)
    lead = words.verdict(summary, config)[0]
    assert "above item_user_bias" in lead and "and so worse" in lead
    drawn = tables.headline(summary)
    row = drawn[drawn.index(">item_user_bias<") :].split("</tr>")[0]
    assert "ours worse" in row and drawn.count("ours worse") == 1


def test_verdict_of_a_tie_with_naive_is_no_gain(report):
    tie = {"mean": 0.01, "low": -0.01, "high": 0.03}
    to = {"cumulative": {"closed": 0.4, "to_close": tie}, "upper_bound": {"closed": 0.3, "to_close": tie}}
    gap = {"arm": "continual", "gain_over_fine_tune": tie, "forgetting_first_less_fine_tune": tie, "to": to}
    said = " ".join(words.verdict({**report.summary, "gap": gap}, report.config))
    assert "cannot be told from fine_tune" in said and "better than" not in said and "40 %" not in said
    clear = {**gap, "gain_over_fine_tune": {"mean": 0.01, "low": 0.005, "high": 0.02}}
    said = " ".join(words.verdict({**report.summary, "gap": clear}, report.config))
    assert "is better than fine_tune" in said
    assert "40 % of the way to cumulative, 30 % of the way to upper_bound." in said
    assert "cumulative +0.0100 [−0.0100, +0.0300]: 40 % of it closed" in words.gap({"gap": clear})
    none = {**clear, "to": {"cumulative": {"closed": None, "to_close": tie}}}
    assert "of the way" not in " ".join(words.verdict({**report.summary, "gap": none}, report.config))
    assert "there is no gap to close" in words.gap({"gap": none})


def test_a_gap_that_is_there_is_closed_by_its_share(report):
    gap, average = report.summary["gap"], {name: row["average"] for name, row in report.summary["continual"].items()}
    way = average["cumulative"] - average["fine_tune"]
    (to,) = gap["to"].values()
    assert to["to_close"]["low"] > 0 and to["to_close"]["mean"] == pytest.approx(way)
    assert to["closed"] == pytest.approx((average["continual"] - average["fine_tune"]) / way)


def test_curves_are_the_means_and_intervals_of_the_summary(report):
    found = points.read(report.table, report.summary, 200)
    head, band = report.summary["headline"], found.bands["continual"]
    assert np.allclose(
        [band.mean[2, 2], band.low[2, 2], band.high[2, 2]], [head["adapted"][k] for k in ("mean", "low", "high")]
    )
    start = found.bands["fine_tune"].mean[2, 0]
    assert np.isclose(start, head["arms"]["fine_tune"]["start"])
    gains = points.gains(found, report.summary, "continual", 0)
    assert gains.shape == (SEEDS * USERS,) and np.allclose(gains, 0.02 * 5 * 16**0.25)
    shares = report.summary["shares"]
    assert shares["start"]["better"]["mean"] == 1.0 and shares["start"]["worse"]["mean"] == 0.0
    against = points.gains(found, report.summary, "item_user_bias", 0)
    assert np.isclose(-against.mean(), head["baselines"]["item_user_bias"]["difference"])
    of_user = against.reshape(SEEDS, USERS).mean(axis=0)
    for part, share in (("better", of_user > 0.05), ("worse", of_user < -0.05), ("same", abs(of_user) <= 0.05)):
        assert np.isclose(shares["item_user_bias"][part]["mean"], share.mean())


def test_bands_do_not_depend_on_how_draws_are_cut(monkeypatch):
    values = np.random.default_rng(1).normal(size=(20, 2))
    whole = points.resampled(values, 50)
    monkeypatch.setattr(bootstrap, "_CELLS", 60)
    # the same draws; a product of another height may round its last bit otherwise
    np.testing.assert_allclose(points.resampled(values, 50), whole, rtol=0, atol=1e-14)
    low, high = ends(values[:, 0].mean(), whole[:, 0], units=20)
    assert np.allclose([low, high], mean_interval(values[:, 0], draws=50)[1:])


def test_gain_of_a_score_that_counts_up(report):
    found = points.read(report.table, report.summary, 10)
    head = {**report.summary["headline"], "larger_is_better": True}
    turned = points.gains(found, {**report.summary, "headline": head}, "continual", 0)
    assert np.allclose(turned, -0.02 * 5 * 16**0.25)


def test_a_curve_that_runs_away_does_not_press_the_others_flat():
    low, high = drawing.limits([1.0, 2.0], [0.8, 1.5, 380.0])
    assert low < 0.8 and 2.0 < high < 2.5


def test_labels_stand_apart_and_near_their_lines():
    places = drawing.apart([0.0, 0.0, 0.0, 0.5, 1.0], 0.1)
    assert np.allclose(places, [-0.1, 0.0, 0.1, 0.5, 1.0])
    assert (np.diff(drawing.apart(sorted(np.random.default_rng(0).random(8)), 0.1)) > 0.1 - 1e-9).all()


def test_interval_plots_share_an_axis_that_one_outlier_does_not_stretch():
    rows = [{"mean": m, "low": m - 0.1, "high": m + 0.1} for m in (1.0, 1.1, 1.3, 400.0)]
    low, high = tables.forest_scale(rows)
    assert low < 0.9 and 1.4 < high < 4
    drawn = tables.forest(rows[3], (low, high), 1.0, strong=False)
    assert 'cx="160.0"' in drawn


def drawn_by(draw, *given):
    with drawing.styled():
        figure = draw(*given).figure
        figure.draw_without_rendering()
    return figure


def test_a_comparison_far_away_leaves_the_scale_to_the_curves_and_is_named_with_an_arrow(report):
    found = points.read(report.table, report.summary, 200)
    band = found.bands["user_mean"]
    far = found._replace(bands={**found.bands, "user_mean": band._replace(mean=np.full_like(band.mean, 40.0))})
    for draw in (pictures.over_steps, pictures.over_shots):
        axes = drawn_by(draw, far, report.summary, report.config).axes
        low, high = axes[0].get_ylim()
        nearest = min(
            far.references, key=lambda name: abs(far.bands[name].mean - far.bands["continual"].mean.mean()).mean()
        )
        assert high < 4 and low < far.bands[nearest].mean.min() <= far.bands[nearest].mean.max() < high
        assert any(text.get_text() == "user_mean ↑ 40" for text in axes[1].texts)


def test_the_outermost_users_stand_at_the_edge_and_nobody_is_left_out(report):
    found = points.read(report.table, report.summary, 200)
    cube = found.cubes["continual"]
    values = cube.values.copy()
    values[0, 0, :, 0] = 1e3  # one who is far from all others before adapting
    far = found._replace(cubes={**found.cubes, "continual": cube._replace(values=values)})
    axis = drawn_by(pictures.users, far, report.summary, report.config).axes[-1]
    placed = np.concatenate([part.get_offsets() for part in axis.collections])
    ends = axis.get_xlim()
    assert len(placed) == SEEDS * USERS and (ends[0] <= placed).all() and (placed <= ends[1]).all()


def test_the_bank_has_a_legend(report):
    found = points.read(report.table, report.summary, 200)
    (legend,) = drawn_by(periods.bank, found.banked, report.summary, report.config).legends
    told = [text.get_text() for text in legend.get_texts()]
    assert told == ["from the user's row of the bank", "from the fresh start", "the bank helped", "it did not"]
