"""Omniglot: every origin gives the same characters, the protocol's cut, and what cannot be read is named."""

import importlib.util
import io
import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from metapers import keys
from metapers.evaluation.evaluate_run import evaluate_run
from metapers.members import build, filled, registry
from metapers.run.load import opened
from metapers.run.training import train
from metapers.scoring.scorer import scorer
from metapers.spec import choose, components, config_for, merged
from metapers.spec.tree import binding
from metapers.tasks import omniglot_origins
from metapers.tasks.omniglot import omniglot
from metapers.tasks.omniglot_origins import Characters, characters_from_folder, characters_from_tfds
from tests import runs

# label: alphabet, number in it; the labels of the second part come first, as nothing says that they do not
PARTS = {
    "images_background": {3: ("Alphabet_of_the_Magi", 1), 4: ("Greek", 1), 5: ("Greek", 2)},
    "images_evaluation": {1: ("Tengwar", 1), 2: ("Tengwar", 2)},
}
EACH = 4


def ink(label, drawing):
    """A hand-made drawing, True where there is ink: a square whose place and size say which it is."""
    page = np.zeros((105, 105), bool)
    page[10 * label : 10 * label + 12, 20 * drawing : 20 * drawing + 15] = True
    return page


def png(page):
    file = io.BytesIO()
    Image.fromarray(~page).save(file, format="PNG")  # 1-bit, paper 1, as the originals
    return file.getvalue()


def members(part):
    for label, (alphabet, number) in PARTS[part].items():
        for drawing in range(EACH):
            name = f"{part}/{alphabet}/character{number:02d}/{label:04d}_{drawing + 1:02d}.png"
            yield name, png(ink(label, drawing))


def folders(root):
    for part in PARTS:
        for name, data in members(part):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    return root


def zips(root, change=lambda name, data: (name, data)):
    root.mkdir(exist_ok=True)
    for part in PARTS:
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            archive.writestr(f"{part}/", "")
            archive.writestr(f"__MACOSX/{part}/._0001_01.png", "no image")
            for member in members(part):
                if (kept := change(*member)) is not None:
                    archive.writestr(*kept)
    return root


def prepared(root, *, without=None):
    """The data set as TFDS lays it out, with the builder's own features, written without TensorFlow."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("omniglot", data_dir=root, file_format="array_record")
    features = tfds.features.FeaturesDict({n: f for n, f in builder.info.features.items() if n != without})
    both = {label: name for part in PARTS.values() for label, name in part.items()}
    names = [f"{alphabet}_{number - 1}" for _, (alphabet, number) in sorted(both.items())]
    if without != "label":
        features["label"].names = names + [f"unseen_{place}" for place in range(len(names), 1623)]
    path = pathlib.Path(builder.data_path)
    path.mkdir(parents=True)
    features.save_config(path)
    features.save_metadata(path)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="omniglot", version=builder.version, data_dir=str(path), module_name=""
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(builder=identity, description="hand-made", features=features),
        max_examples_per_shard=5,
        overwrite=True,
        file_format=tfds.core.FileFormat.ARRAY_RECORD,
    )
    writer.initialize_splits(["train", "test"])
    for split, part in zip(("train", "test"), PARTS, strict=True):
        rows = []
        for name, data in reversed(list(members(part))):  # TFDS shuffles
            label = int(name[-11:-7])
            row = {"image": data, "alphabet": 0, "alphabet_char_id": np.int64(0), "label": label - 1}
            rows.append({n: v for n, v in row.items() if n != without})
        writer.add_examples({split: rows})
    writer.close_all()
    return root


def same(one, other):
    np.testing.assert_array_equal(one.images, other.images)
    assert one.names == other.names and (one.size, one.smooth) == (other.size, other.smooth)


def test_folders_zips_and_tfds_give_the_same_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot_origins, "BLOCK", 5)  # whole blocks and a rest
    found = characters_from_folder(folders(tmp_path / "folders"), size=21, smooth=False)
    assert found.images.shape == (5, EACH, 21, 21, 1) and found.images.dtype == np.uint8
    assert found.names == (
        "Tengwar/character01",
        "Tengwar/character02",
        "Alphabet_of_the_Magi/character01",
        "Greek/character01",
        "Greek/character02",
    )
    assert (found.source, found.version) == ("original files", "images_background+images_evaluation")
    for place, label in enumerate(range(1, 6)):
        centres = [ink(label, drawing)[2::5, 2::5] * 255 for drawing in range(EACH)]  # 105 = 5 x 21
        expected = sorted(one.astype(np.uint8).tobytes() for one in centres)
        assert [one.tobytes() for one in found.images[place]] == expected
    same(characters_from_folder(zips(tmp_path / "zips"), size=21, smooth=False), found)
    from_tfds = characters_from_tfds(prepared(tmp_path / "tfds"), size=21, smooth=False)
    same(from_tfds, found)
    assert (from_tfds.source, from_tfds.version) == ("tfds omniglot", "3.0.0 train+test")
    some = characters_from_tfds(tmp_path / "tfds", ["test"])
    same(some, characters_from_folder(tmp_path / "zips", ["images_evaluation"]))
    assert some.names == found.names[:2]


def test_smooth_images_are_grey_and_keep_their_ink(tmp_path):
    root = zips(tmp_path)
    grey, plain = (characters_from_folder(root, smooth=smooth) for smooth in (True, False))
    assert set(np.unique(plain.images)) == {0, 255} and len(np.unique(grey.images)) > 10
    assert grey.images.shape == plain.images.shape == (5, EACH, 28, 28, 1)
    share = np.mean([ink(label, drawing).mean() for label in range(1, 6) for drawing in range(EACH)])
    assert abs(grey.images.mean() / 255 - share) < 0.002 and abs(plain.images.mean() / 255 - share) < 0.01
    whole = characters_from_folder(root, size=105).images[0]
    assert {one.tobytes() for one in whole} == {(ink(1, d) * np.uint8(255)).tobytes() for d in range(EACH)}


def test_nearest_is_what_pillow_does_to_one_bit_images_whatever_it_is_asked():
    with Image.open(io.BytesIO(png(ink(2, 1)))) as page:
        assert page.mode == "1"
        asked = np.asarray(page.resize((28, 28), Image.Resampling.LANCZOS))
        nearest = np.asarray(page.convert("L").resize((28, 28), Image.Resampling.NEAREST)) > 0
    np.testing.assert_array_equal(asked, nearest)


def test_reading_tfds_does_not_import_tensorflow(tmp_path):
    prepared(tmp_path)
    program = (
        "import json, sys; from metapers.tasks.omniglot_origins import characters_from_tfds;"
        f"found = characters_from_tfds({str(tmp_path)!r});"
        "print(json.dumps([found.images.shape, 'tensorflow' in sys.modules]))"
    )
    code, out, err = runs.call("-c", program)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1]) == [[5, EACH, 28, 28, 1], False]


def test_what_tfds_lacks_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"3\.0\.0 is not prepared: download=True .*metapers\[tensorflow\]"):
        characters_from_tfds(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs TensorFlow.*metapers\[tensorflow\]"):
        characters_from_tfds(tmp_path, download=True)
    monkeypatch.undo()
    prepared(tmp_path)
    with pytest.raises(ValueError, match=r"splits must be among \['test', 'train'\], got \['small1'\]"):
        characters_from_tfds(tmp_path, ["train", "small1"])
    (info,) = tmp_path.rglob("dataset_info.json")
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match=r"omniglot in .* must be in the format array_record, .*TFRECORD"):
        characters_from_tfds(tmp_path)
    with pytest.raises(ValueError, match=r"lacks the features \['label'\]; expected .*, found .*'image'"):
        characters_from_tfds(prepared(tmp_path / "other", without="label"))


def broken(kind):
    def change(name, data):
        if not name.endswith("Greek/character02/0005_03.png"):
            return name, data
        small = png(ink(1, 1)[:28, :28])
        kinds = {
            "text": (name, b"no image"),
            "half": (name, data[:60]),
            "small": (name, small),
            "name": (name.replace("0005_03", "5"), data),
            "owner": (name.replace("0005", "0004"), data),
        }
        return kinds.get(kind)

    return change


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", r"Greek/character02/0005_03\.png cannot be read as an image"),
        ("half", r"Greek/character02/0005_03\.png cannot be read as an image"),
        ("small", r"0005_03\.png must be 105 x 105 pixels, got 28 x 28"),
        ("name", r"character02/5\.png: expected <alphabet>/character<NN>/<NNNN>_<NN>\.png"),
        ("owner", r"character02/0004_03\.png: its number belongs to Greek/character01, not to Greek/character02"),
        ("gone", r"Greek/character02 must have as many as the 4 drawings of Tengwar/character01, got 3"),
    ],
)
def test_a_bad_file_is_named(tmp_path, kind, message):
    with pytest.raises(ValueError, match=message):
        characters_from_folder(zips(tmp_path, broken(kind)))


def test_missing_parts_and_damaged_archives_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither the folder images_background nor images_background\.zip"):
        characters_from_folder(tmp_path)
    zips(tmp_path)
    with pytest.raises(ValueError, match="size must be >= 1, got 0"):
        characters_from_folder(tmp_path, size=0)
    archive = tmp_path / "images_evaluation.zip"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"images_evaluation\.zip cannot be read as a \.zip file"):
        characters_from_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="original files empty must hold images, got none"):
        characters_from_folder(tmp_path, ["empty"])


def numbered(count):
    """Characters whose every pixel is their number, apart from one that says which way is up."""
    images = np.tile(np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None, None], (1, 3, 5, 5, 1))
    images[:, :, 0, 0] = 255
    names = tuple(f"Greek/character{number:02d}" for number in range(count))
    return Characters(images, names, "hand-made", "7", 5, True)


def classes_of(cohort):
    return set(np.rint(cohort.inputs[:, 2, 2, 0] * 255).astype(int).tolist())


def test_the_characters_are_shuffled_and_cut():
    stream = omniglot(numbered(20), classes=(9, 4, 6), ways=3, queries=2, episodes=40)
    found = {"train": stream.training(None)} | {s: stream.held_out(s, None) for s in ("validation", "test")}
    parts = {split: classes_of(cohort) for split, cohort in found.items()}
    assert [len(parts[split]) for split in ("train", "validation", "test")] == [9, 4, 6]
    assert len(set.union(*parts.values())) == 19 and parts["train"] != set(range(1, 10))
    sample = jax.jit(stream.family.sample, static_argnums=2)
    tasks = sample(stream.family.data((0, 0), 0, 1), 0, 200, keys.root(0))[0]
    assert set(np.rint(np.asarray(tasks.query.inputs)[..., 2, 2, 0] * 255).astype(int).ravel()) == parts["train"]
    ups = np.asarray(tasks.support.inputs)[..., [0, 4, 4, 0], [0, 0, 4, 4], 0] == 1
    assert (ups.sum(-1) == 1).all() and (ups.reshape(-1, 4).sum(0) > 100).all()  # all four turns by default
    other = omniglot(numbered(20), classes=(9, 4, 6), ways=3, episodes=40, split_seed=1)
    assert classes_of(other.training(None)) != parts["train"]
    reseeded = omniglot(numbered(20), classes=(9, 4, 6), ways=3, queries=2, episodes=40, seed=1)
    assert classes_of(reseeded.training(None)) == parts["train"]
    assert (reseeded.held_out("test", 0).inputs != stream.held_out("test", 0).inputs).any()


def test_provenance_says_what_was_cut():
    stream = omniglot(numbered(20), classes=(9, 4, 6), ways=3, episodes=5)
    about = stream.provenance
    assert json.loads(json.dumps(about)) == about
    assert (about["source"], about["version"], about["size"], about["smooth"]) == ("hand-made", "7", 5, True)
    assert about["characters"] == {"train": 9, "validation": 4, "test": 6} and about["split_seed"] == 0
    assert about["splits"]["train"] == [{"users": 5, "examples": 30, "classes": 36}]


def test_nobody_is_judged_on_a_support_that_shows_some_classes_more_often_than_others(tmp_path):
    config = config_for("omniglot", "conv4")
    config.data.update(path=str(folders(tmp_path)), size=16, classes=(2, 1, 1), ways=2, shots=2, queries=1, episodes=2)
    config.evaluation.update(metric="accuracy", shots=(4,), headline_shots=4)
    made = components(config)
    assert scorer(made, shots=(2,)).shots == (2, 4)
    with pytest.raises(ValueError, match="shots must be multiples of data.ways = 2, got 3"):
        scorer(made, shots=(3,))
    with pytest.raises(ValueError, match="shots must be <= 4, the most of the run's config, got 6"):
        scorer(made, shots=(6,))


def test_a_run_goes_on_where_its_drawings_were_moved_and_not_with_others(tmp_path, capsys):
    config = config_for("omniglot", "conv4")
    config.data.update(path=str(folders(tmp_path / "here")), size=16, classes=(2, 1, 1), ways=2, episodes=2)
    config.evaluation.update(metric="accuracy", shots=(2,), headline_shots=2, steps=(0,), headline_steps=0)
    choose(config, "arms", "fine_tune")
    config.update(outer_steps=1, meta_batch=1, chunk=1, bank=False, tensorboard=False)
    config.model.filters = 2
    config = merged(config, {"learner": "joint"})  # the least to compile
    train(config, tmp_path / "run")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = merged(config, {"data.path": str(tmp_path / "there")})
    train(moved, tmp_path / "run")
    assert f"resumed with another data.path: '{tmp_path / 'here'}' -> '{tmp_path / 'there'}'" in capsys.readouterr().out
    assert opened(tmp_path / "run").data.path == moved.data.path
    assert binding(config) == binding(moved) != binding(merged(config, {"seed": 1}))
    told = (tmp_path / "run" / "provenance.json").rename(tmp_path / "provenance.json")
    with pytest.raises(ValueError, match="provenance.json is missing, which says on what data the run in"):
        train(moved, tmp_path / "run")
    told.rename(tmp_path / "run" / "provenance.json")
    for drawing in (tmp_path / "there").rglob("*_01.png"):
        drawing.write_bytes(png(ink(6, 3)))
    with pytest.raises(ValueError, match="was started on other data: SHA-256"):
        train(moved, tmp_path / "run")
    with pytest.raises(ValueError, match="was started on other data: SHA-256"):
        evaluate_run(tmp_path / "run")


@pytest.mark.parametrize(("asked", "trained", "outputs"), [(None, 2, 2), (4, 4, 4)])
def test_a_config_asks_for_harder_episodes_to_train_on_and_the_model_has_outputs_for_them(
    asked, trained, outputs, tmp_path
):
    options = {"path": str(folders(tmp_path)), "size": 16, "classes": (2, 1, 1), "ways": 2, "episodes": 3}
    section = filled("source", {"name": "omniglot", **options, "train_ways": asked})
    stream = build("source", section, {})
    sample = lambda data: stream.family.sample(data, 0, 3, keys.root(0))[0]
    tasks = jax.eval_shape(sample, stream.family.data((0, 0), 0, 1))
    assert tasks.support.targets.shape == (3, trained)
    assert stream.held_out("test", None).targets.max() == 1
    assert registry("source")["omniglot"].facts.sizes(stream)["classes"] == outputs


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((9, 4), r"classes must be three sizes >= 1 .*, got \(9, 4\)"),
        ((9, 0, 4), r"classes must be three sizes >= 1 .*, got \(9, 0, 4\)"),
        ((9, 4, 8), r"classes must be at most 20 characters together, got \(9, 4, 8\); their sum is 21"),
    ],
)
def test_bad_cuts_are_named(classes, message):
    with pytest.raises(ValueError, match=message):
        omniglot(numbered(20), classes=classes, ways=2)


def test_the_real_small_set(shared_data):
    found = characters_from_folder(shared_data / "omniglot", ["images_background_small1"])
    assert found.images.shape == (136, 20, 28, 28, 1)
    assert len({name.split("/")[0] for name in found.names}) == 5
    assert 0.03 < found.images.mean() / 255 < 0.3  # ink is bright, and there is little of it
    assert (found.images.max(axis=(2, 3, 4)) > 128).all()
    stream = omniglot(found, classes=(90, 16, 30), episodes=20)
    cohort = stream.held_out("test", 0)
    assert cohort.inputs.shape == (20 * 2 * 5, 28, 28, 1) and cohort.inputs.min() == 0 and cohort.inputs.max() == 1
    assert cohort.inputs.mean() < 0.3 and np.median(cohort.inputs) == 0


def test_the_whole_set_has_the_papers_numbers(shared_data):
    found = characters_from_folder(shared_data / "omniglot", smooth=False)
    assert found.images.shape == (1623, 20, 28, 28, 1) and len(set(found.names)) == 1623
    assert len({name.split("/")[0] for name in found.names}) == 50
    splits = omniglot(found, ways=20, episodes=2).provenance["splits"]
    assert [splits[split][0]["classes"] for split in ("train", "validation", "test")] == [4400, 400, 1692]
