"""The strict room: float64, no silent promotion, two devices, warnings are errors (pyproject.toml)."""

import fcntl
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path(os.environ.get("METAPERS_TEST_CACHE", ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Most of the time of these tests is the compiler's, on small shapes that run once: a third less if it optimizes
# nothing, which changes rounding at most. With XLA_FLAGS= (empty) the tests run what users run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def shared_data() -> pathlib.Path:
    """The folder of local real data beside the checkout; tests that need it are skipped where it is not there."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the local data folder ../shared/data is not here")
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of ``runs.small``, trained and judged once for all workers; to be read, never written."""
    from metapers import experiment
    from tests import runs

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder, done = shared / "small_run", shared / "small_run.done"
    with open(shared / "small_run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers wait here
        if not done.exists():
            experiment.train(runs.small(), folder)
            experiment.judge(folder, say=lambda text: (shared / "small_run.txt").write_text(text) and None)
            done.touch()
    return folder
