"""Versions and checkpoints: the bits that were saved come back, or a refusal with a name."""

import asyncio
import errno
import json
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from metapers import store
from metapers.manifest import plain
from tests.damage import finish, flip_bits, start


class State(NamedTuple):
    params: Any
    rest: Any


def state(seed: int = 0) -> State:
    key = jax.random.key(seed)
    params = {
        "embed": jax.random.normal(key, (7, 3), jnp.float32),
        "head": {"w": jax.random.normal(key, (3,), jnp.float64), "half": jnp.arange(5.0, dtype=jnp.bfloat16) / 3},
    }
    rest = {
        "adam": optax.adam(1e-3).init(params),
        "key": key,
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 4).reshape(2, 2),
        "flag": jnp.array([True, False, True]),
        "step": jnp.asarray(seed, jnp.int32),
        "big": jnp.asarray(2**63 - 1),
        "bytes": jnp.arange(250, 256, dtype=jnp.uint8),
        "none": jnp.zeros((0, 4), jnp.float32),
        "unkeyed": jax.random.split(key, 0),
        "odd": np.array([-0.0, np.nan, np.inf, 5e-324]),
        "signed": jnp.full(3, -0.0, jnp.float32),
        "tiny": jnp.asarray([1, -2], jnp.int4),
        "small": jnp.asarray([0.5, 448.0], jnp.float8_e4m3fn),
        "wave": jnp.asarray([1 + 2j], jnp.complex64),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)).astype(">f8"),
    }
    return State(params, rest)


def bits(tree: Any) -> list[tuple[str, Any, bytes]]:
    def one(leaf):
        typed = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if typed else leaf)
        return leaf.dtype.name, leaf.shape, array.astype(array.dtype.newbyteorder("=")).tobytes()

    return [one(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("versions")
    for number in (1, 2):
        store.save_version(folder, number, state(number), {"period": number})
    return folder


@pytest.fixture
def copied(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "versions"))


def data_file(version: Path) -> Path:
    return max((version / "arrays").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)


def test_every_bit_comes_back(saved):
    tree, lineage = store.load_version(saved, 1, state())
    assert bits(tree) == bits(state(1)) and lineage == {"period": 1}
    assert jax.tree.structure(tree) == jax.tree.structure(state(1))
    kinds = [isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)]
    assert kinds == [isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state(1))]
    same = jax.random.normal(tree.rest["keys"][1, 0], (2,)) == jax.random.normal(state(1).rest["keys"][1, 0], (2,))
    assert bool(jnp.all(same))


def test_shapes_alone_are_enough_to_load(saved):
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state())
    tree, _ = store.load_version(saved, 2, like)
    assert bits(tree) == bits(state(2)) and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))


def test_without_like_nested_dicts_and_the_last_version(saved):
    tree, lineage = store.load_version(saved)
    assert lineage == {"period": 2}
    assert set(tree) == {"params", "rest"} and set(tree["params"]["head"]) == {"w", "half"}
    assert isinstance(tree["params"]["embed"], np.ndarray)
    np.testing.assert_array_equal(tree["rest"]["adam"]["0"]["mu"]["embed"], np.zeros((7, 3)))
    assert tree["rest"]["step"].shape == () and tree["rest"]["step"] == 2
    assert bits(tree["rest"]["keys"]) == bits(state(2).rest["keys"])


@pytest.mark.parametrize("tree", [{}, jnp.arange(3), {"a": ()}, [jnp.zeros(0)], (np.float32(2), {0: jnp.ones(1)})])
def test_small_trees(tree, tmp_path):
    store.save_version(tmp_path, 0, tree, {})
    back, _ = store.load_version(tmp_path, 0, tree)
    assert bits(back) == bits(tree) and jax.tree.structure(back) == jax.tree.structure(tree)


def test_a_sharding_is_kept(tmp_path):
    mesh = jax.make_mesh((2,), ("users",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(jnp.arange(6.0), jax.NamedSharding(mesh, jax.P("users")))
    store.save_version(tmp_path, 0, {"x": sharded}, {})
    back = store.load_version(tmp_path, 0, {"x": sharded})[0]["x"]
    assert back.sharding == sharded.sharding and bits(back) == bits(sharded)


def test_no_hidden_transfer_and_no_thread_left(tmp_path):
    tree, threads = state(3), set(threading.enumerate())
    with jax.transfer_guard("disallow"):
        store.save_version(tmp_path, 0, tree, {})
        back, _ = store.load_version(tmp_path, 0, tree)
    assert bits(back) == bits(tree) and set(threading.enumerate()) == threads


def test_works_inside_a_running_event_loop(tmp_path):
    async def both():
        store.save_version(tmp_path, 0, {"x": jnp.arange(3)}, {})
        return store.load_version(tmp_path, 0)[0]["x"]

    assert asyncio.run(both()).tolist() == [0, 1, 2]


def test_a_version_is_never_overwritten(copied):
    with pytest.raises(FileExistsError, match="version 1 exists"):
        store.save_version(copied, 1, state(5), {})
    assert bits(store.load_version(copied, 1, state())[0]) == bits(state(1))


def test_bad_arguments(tmp_path, saved):
    with pytest.raises(ValueError, match=r"number must be >= 0, got -1"):
        store.save_version(tmp_path, -1, {}, {})
    with pytest.raises(TypeError, match=r"leaf a/b must be an array of numbers, got 3"):
        store.save_version(tmp_path, 0, {"a": {"b": 3}}, {})
    with pytest.raises(TypeError, match="leaf s must be an array"):
        store.save_version(tmp_path, 0, {"s": np.array(["x"])}, {})
    with pytest.raises(ValueError, match="two leaves have the path 0"):
        store.save_version(tmp_path, 0, Twice(jnp.ones(1), jnp.ones(1)), {})
    with pytest.raises(TypeError, match="as JSON"):
        store.save_version(tmp_path, 0, {}, {"a": object()})
    with pytest.raises(FileNotFoundError, match=r"number 7 is not among \[1, 2\]"):
        store.load_version(saved, 7)
    with pytest.raises(FileNotFoundError, match=r"not among \[\]"):
        store.load_version(tmp_path / "nowhere")
    assert store.versions(tmp_path) == []


@jax.tree_util.register_pytree_with_keys_class
class Twice:
    def __init__(self, a, b):
        self.both = (a, b)

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.SequenceKey(0), self.both[0]), (jax.tree_util.DictKey("0"), self.both[1])], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_another_structure_is_refused_leaf_by_leaf(saved):
    like = state()
    like.params["head"].pop("w")
    like.params["new"] = jnp.zeros(2, jnp.int32)
    like.params["embed"] = jnp.zeros((7, 4), jnp.float32)
    like.rest["step"] = jnp.zeros((), jnp.float32)
    like.rest["key"] = jax.random.key(0, impl="rbg")
    with pytest.raises(ValueError) as refusal:
        store.load_version(saved, 1, like)
    message = str(refusal.value)
    assert "extra params/head/w (float64[3])" in message
    assert "missing params/new (int32[2])" in message
    assert "params/embed is float32[7, 3], expected float32[7, 4]" in message
    assert "rest/step is int32[], expected float32[]" in message
    assert "rest/key is key<fry>[], expected key<rbg>[]" in message
    assert "params/head/half" not in message and not isinstance(refusal.value, store.CorruptVersion)


def test_float64_is_not_cut_short_where_x64_is_off(tmp_path):
    store.save_version(tmp_path, 0, {"x": np.array([1 / 3])}, {})
    with jax.enable_x64(False), pytest.raises(ValueError, match="cannot hold float64"):
        store.load_version(tmp_path, 0, {"x": jax.ShapeDtypeStruct((1,), np.float64)})
    with jax.enable_x64(False):
        assert store.load_version(tmp_path, 0)[0]["x"] == np.array([1 / 3])


def test_two_hundred_flipped_bits(copied):
    truth, like, refused, hit = bits(state(1)), state(), 0, set()
    for path, bit in flip_bits(copied / "1", 200, seed=0):
        hit.add(path)
        try:
            tree, lineage = store.load_version(copied, 1, like)
        except store.CorruptVersion as error:
            assert str(path) in str(error), (path, bit, error)
            refused += 1
        else:
            assert bits(tree) == truth and lineage == {"period": 1}, (path, bit)
    assert refused == 200 and len(hit) >= 8
    assert bits(store.load_version(copied, 1, like)[0]) == truth


def test_a_bit_that_only_the_leaf_sum_can_see(saved, monkeypatch):
    load = store._orbax_load

    def broken(path):
        columns = load(path)
        column = columns["float32"].copy()
        column.view(np.uint32)[4] ^= 1
        return {**columns, "float32": column}

    monkeypatch.setattr(store, "_orbax_load", broken)
    with pytest.raises(store.CorruptVersion, match=r"leaf params/embed of .*1 is not what was written"):
        store.load_version(saved, 1, state())
    monkeypatch.setattr(store, "_orbax_load", lambda path: {})
    with pytest.raises(store.CorruptVersion, match="leaf params/embed"):
        store.load_version(saved, 1)


@pytest.mark.parametrize("name", ["lineage.json", "arrays/_METADATA", "data"])
@pytest.mark.parametrize("how", ["truncated", "missing", "longer"])
def test_truncated_missing_and_lengthened_files(copied, name, how):
    path = data_file(copied / "1") if name == "data" else copied / "1" / name
    whole = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(whole[: len(whole) // 2] if how == "truncated" else whole + b"\0")
    with pytest.raises(store.CorruptVersion, match=path.name):
        store.load_version(copied, 1, state())
    assert bits(store.load_version(copied, 2, state())[0]) == bits(state(2))


@pytest.mark.parametrize("name", ["lineage.json", "arrays", "."])
def test_what_belongs_to_another_version_is_refused(copied, name):
    first, second, aside = copied / "1" / name, copied / "2" / name, copied.parent / "aside"
    os.rename(first, aside)
    os.rename(second, first)
    os.rename(aside, second)
    for number in (1, 2):
        with pytest.raises(store.CorruptVersion, match=f"{number}/|its folder is {number}"):
            store.load_version(copied, number, state())


def test_the_record_is_refused_even_where_its_meaning_is_kept(copied):
    path = copied / "1" / "lineage.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record))
    with pytest.raises(store.CorruptVersion, match=r"lineage\.json was changed"):
        store.read_record(copied, 1)
    body = {name: value for name, value in record.items() if name != "digest"}
    assert record["digest"] == store.digest(body) and store.read_record(copied, 2)["number"] == 2


def test_the_record_tells_all(saved):
    record = store.read_record(saved, 1)
    rows = {"/".join(row["path"]): row for row in record["leaves"]}
    assert rows["params/embed"]["shape"] == [7, 3] and rows["params/embed"]["dtype"] == "float32"
    assert rows["rest/keys"]["key"] == "rbg" and rows["rest/keys"]["shape"] == [2, 2]
    assert "State" in record["structure"] and "arrays/_METADATA" in record["files"]


def test_half_written_is_ignored_named_and_swept(copied, caplog):
    half = copied / f".3{store.PARTIAL}99"
    shutil.copytree(copied / "2", half)
    (copied / "notes").mkdir()
    (copied / "4").write_text("a file, no version")
    with caplog.at_level(logging.WARNING, "metapers.store"):
        assert store.versions(copied) == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [f"ignored half-written {half}"]
    store.save_version(copied, 3, state(3), {})
    assert not half.exists() and store.versions(copied) == [1, 2, 3]


def test_checkpoints_replace_themselves_and_keep_two(tmp_path):
    like = {"x": jnp.zeros(3)}
    for step in (10, 20, 20, 30):
        size = store.save_checkpoint(tmp_path, step, {"x": jnp.full(3, step + 0.5)}, {"step": step})
    held = sum(path.stat().st_size for path in (tmp_path / "30").rglob("*") if path.is_file())
    assert size == held and store.versions(tmp_path) == [20, 30] and store.latest_checkpoint(tmp_path) == 30
    for step in (20, 30):
        tree, meta = store.load_checkpoint(tmp_path, step, like)
        assert tree["x"].tolist() == [step + 0.5] * 3 and meta == {"step": step}
    assert sorted(os.listdir(tmp_path)) == ["20", "30"] and store.latest_checkpoint(tmp_path / "none") is None


def test_a_damaged_checkpoint_is_passed_over_and_written_again(tmp_path, caplog):
    for step in (10, 20):
        store.save_checkpoint(tmp_path, step, {"x": jnp.full(3, step)}, {})
    for _path, _bit in flip_bits(tmp_path / "20", 30, seed=1):
        assert store.latest_checkpoint(tmp_path) == 10
    assert "passed over damaged checkpoint 20" in caplog.text and store.latest_checkpoint(tmp_path) == 20
    data_file(tmp_path / "20").write_bytes(b"")
    store.save_checkpoint(tmp_path, 15, {"x": jnp.full(3, 15)}, {})
    assert store.versions(tmp_path) == [10, 15] and "went on from step 15" in caplog.text


SAVING = """
import sys; from pathlib import Path; import numpy as np; from metapers import store
for n in range(1000):
    tree = {"x": np.random.default_rng(n).normal(size=300_000), "n": np.full(5, n)}
    store.save_version(Path(sys.argv[1]), n, tree, {"n": n}); print(n, flush=True)
"""


@pytest.mark.parametrize("delay", [0.005, 0.04, 0.09])
def test_kill_during_a_save_leaves_the_earlier_ones(tmp_path, delay):
    with start(SAVING, tmp_path) as child:
        assert child.stdout is not None
        while child.stdout.readline().strip() != "2":
            assert child.poll() is None
        time.sleep(delay)
        child.kill()
    found = store.versions(tmp_path)
    assert found == list(range(len(found))) and len(found) >= 3
    for number in found:
        tree, lineage = store.load_version(tmp_path, number)
        assert tree["n"].tolist() == [number] * 5 and lineage == {"n": number}
        assert np.array_equal(tree["x"], np.random.default_rng(number).normal(size=300_000))
    store.save_version(tmp_path, found[-1] + 1, {"x": jnp.ones(1)}, {})
    assert not list(tmp_path.glob(".*"))


STARVED = """
import resource, signal, sys, json; from pathlib import Path; import numpy as np; from metapers import store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1]); tree = {"x": np.random.default_rng(0).normal(size=200_000)}
store.save_version(folder / "v", 0, tree, {}); store.save_checkpoint(folder / "c", 5, tree, {})
said = []
for limit in (100_000, 300):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for save, place in ((store.save_version, "v"), (store.save_checkpoint, "c")):
        try: save(folder / place, 6, tree, {})
        except OSError as error: said.append([error.errno, error.filename, str(error)])
print(json.dumps(said))
"""


def test_a_full_disk_is_named_and_leaves_the_earlier_ones(tmp_path):
    said = json.loads(finish(STARVED, tmp_path).splitlines()[-1])
    assert [filename for _, filename, _ in said] == [str(tmp_path / place / "6") for place in "vcvc"]
    for number, filename, text in said:
        assert number == errno.EFBIG and "could not write" in text and repr(filename) in text
    assert os.listdir(tmp_path / "v") == ["0"] and os.listdir(tmp_path / "c") == ["5"]
    expected = np.random.default_rng(0).normal(size=200_000)
    assert np.array_equal(store.load_version(tmp_path / "v")[0]["x"], expected)
    assert np.array_equal(store.load_checkpoint(tmp_path / "c", 5)[0]["x"], expected)
    assert store.latest_checkpoint(tmp_path / "c") == 5


def test_orbax_is_quiet_and_others_are_not(tmp_path):
    store.save_version(tmp_path, 0, {"x": jnp.ones(1)}, {})
    heard: list[str] = []
    ear = logging.Handler()
    ear.emit = lambda record: heard.append(record.getMessage())
    absl = logging.getLogger("absl")
    level = absl.level
    absl.addHandler(ear)
    absl.setLevel(logging.INFO)
    try:
        store.save_version(tmp_path, 1, {"x": jnp.ones(1)}, {})
        absl.info("of the user's own")
    finally:
        absl.setLevel(level)
        absl.removeHandler(ear)
    assert heard == ["of the user's own"]


def test_digest_is_canonical():
    assert store.digest({"b": 1, "a": (np.float32(0.5), Path("x"))}) == store.digest(
        {"a": [0.5, "x"], "b": np.int32(1)}
    )
    assert store.digest({"a": 1}) != store.digest({"a": 1.5}) != store.digest({"a": "1"})
    # sha256 of the text {"a":[1,null]}
    assert store.digest({"a": [1, float("nan")]}) == "a290b55a84a4e851c13e570346d396a0ff58e13e3b458112237484f9ed3b8950"
    config = ml_collections.ConfigDict({"rate": 0.1, "sizes": (3, 4)})
    assert store.digest(config) == store.digest({"sizes": [3, 4], "rate": 0.1})
    assert plain({"x": np.array([1.0, np.inf]), "y": jnp.asarray(2)}) == {"x": [1.0, None], "y": 2}
