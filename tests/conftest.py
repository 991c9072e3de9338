"""The strict test environment: float64, no silent promotion, two devices, warnings are errors (pyproject.toml)."""

import fcntl
import gc
import itertools
import os
import pathlib
from importlib.metadata import version

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path(os.environ.get("METAPERS_TEST_CACHE", ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the time of these tests is the compiler's, on small shapes that run once: a third less if it optimizes
# nothing, which changes rounding at most. With XLA_FLAGS= (empty) the tests run what users run.
FLAGS = "--xla_backend_optimization_level=0"
if version("jaxlib") < "0.11":  # later ones do not know the flag, and XLA ends the process
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FLAGS)

import jax  # noqa: E402
import pytest  # noqa: E402
from _pytest.nodeid import coerce_node_id  # noqa: E402
from jax._src import pjit  # noqa: E402
from jax._src.interpreters import pxla  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

collect_ignore = ["one_file"]  # importing these files registers their members, in all tests of the process


MOST_MAPS = 50_000
"""Memory maps beyond which compiled programs are dropped. A program takes several maps. At the 65,530 maps that Linux
allows a process, the compiler ends it with a segmentation fault."""
_boundaries = itertools.count()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Drops the lowered forms of programs, for each slows down the next lowering.

    Between two groups of tests it drops compiled programs too, where there are many.
    """
    for lowered in (pjit._pjit_lower, pxla._cached_lowering_to_hlo, pxla._cached_compilation):
        lowered.cache_clear()
    if nextitem is None or _group(item) == _group(nextitem):
        return
    gc.freeze()  # what is here stays, mostly: a collection need not go through it
    if next(_boundaries) % 10:
        return
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.unfreeze()
        gc.collect()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts "@group" behind the id of a test with a group, as pytest-xdist does for --dist loadgroup.

    pytest-xdist 3.8 sets an attribute that pytest 9.2 does not read any more, so its own hook has no effect.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        marker = item.get_closest_marker("xdist_group")
        if marker and not item.nodeid.endswith(f"@{marker.args[0]}"):
            item._id = coerce_node_id(f"{item.nodeid}@{marker.args[0]}")  # pyright: ignore


def _group(item: pytest.Item) -> str:
    """Tests of one group may share programs, and count how often these are compiled."""
    marker = item.get_closest_marker("xdist_group")
    return str(marker.args[0]) if marker else str(item.path)


def shared(name: str) -> pathlib.Path:
    """A folder of the local material: METAPERS_SHARED, else ../shared. Skips without it, fails where it is promised."""
    promised = os.environ.get("METAPERS_SHARED")
    folder = pathlib.Path(promised or ROOT.parent / "shared") / name
    if folder.is_dir():
        return folder
    if promised:
        pytest.fail(f"METAPERS_SHARED is set, but {folder} is missing")
    pytest.skip(f"the local folder shared/{name} is not here; METAPERS_SHARED names another place")


@pytest.fixture
def shared_data() -> pathlib.Path:
    """The folder of local real data; a test that needs it is skipped without it, or fails where it is promised."""
    return shared("data")


@pytest.fixture
def shared_faults() -> pathlib.Path:
    """The folder of small inputs that failed once."""
    return shared("faults")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of ``runs.small``, trained and evaluated once for all workers; to be read, never written."""
    from metapers.evaluation.evaluate_run import evaluate_run
    from metapers.report import report_of
    from metapers.run.training import train
    from tests import runs

    base = tmp_path_factory.getbasetemp()
    common = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder, done = common / "small_run", common / "small_run.done"
    with open(common / "small_run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers wait here
        if not done.exists():
            with pytest.MonkeyPatch.context() as patched:
                runs.share_programs(patched)  # training compiled what evaluation runs
                train(runs.small(), folder)
                evaluate_run(folder, say=lambda text: (common / "small_run.txt").write_text(text) and None)
            report_of(folder)
            done.touch()
    return folder
