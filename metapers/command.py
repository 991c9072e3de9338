"""The doors: flags in, one clear line out when something is wrong, and how to go on after an interruption."""

import asyncio
import logging
import os
import pathlib
import shlex
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

import metapers
from metapers import arguments
from metapers.arguments import UsageError
from metapers.experiment import config as configs

TRAIN_HELP = """Trains every strategy of a config, stage by stage, into a workdir.

  python train.py --config=configs/movielens.py --workdir=runs/mine
  python train.py --config=configs/movielens.py --workdir=runs/mine --config.learner.inner_steps=3
  python train.py --config=configs/movielens.py --workdir=runs/sweep --sweep=learner.inner_rate=0.1,0.3
  python train.py --config=configs/movielens.py --help      what this config is, its methods, its keys and their values

The same command on the same workdir goes on where it was, bit for bit. Then: python eval.py --workdir=runs/mine
"""
EVAL_HELP = """Judges a workdir's versions on held-out users: prints the table, writes records, pictures and the report.

  python eval.py --workdir=runs/mine
  python eval.py --workdir=runs/mine --strategy=naive --version=2 --shots=1,4,16 --steps=0,1,5
"""


CONFIG_HELP = "the config file; --config.KEY=VALUE sets one of its keys"


def train_main(argv: Sequence[str] | None = None) -> NoReturn:
    """The door of train.py; never returns."""
    argv = list(argv or sys.argv)
    own = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, CONFIG_HELP, flag_values=own, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "where everything of the run is written", flag_values=own)
    flags.DEFINE_string("profile", None, "a folder to write a JAX trace of the run to", flag_values=own)
    flags.DEFINE_multi_string("sweep", [], "key=value,value,…: runs every combination, ranks it", flag_values=own)
    _common(own)
    _run(lambda: _train(own, holder, argv), own, argv, TRAIN_HELP, ("config", "workdir"))


def eval_main(argv: Sequence[str] | None = None) -> NoReturn:
    """The door of eval.py; never returns."""
    argv = list(argv or sys.argv)
    own = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "a workdir that train.py has written", flag_values=own)
    flags.DEFINE_string("strategy", "", "one strategy; default: all of the run", flag_values=own)
    flags.DEFINE_integer("version", None, "one version's number, -1 the last; default: all", flag_values=own)
    flags.DEFINE_enum("split", "test", ["test", "validation"], "whose users judge", flag_values=own)
    flags.DEFINE_list("steps", None, "inner steps to score after; default: the config's", flag_values=own)
    flags.DEFINE_list("shots", None, "support sizes; default: the config's", flag_values=own)
    _common(own)
    _run(lambda: _eval(own), own, argv, EVAL_HELP, ("workdir",))


def _train(own: flags.FlagValues, holder: Any, argv: list[str]) -> int:
    from metapers.experiment import sweep, training

    config = arguments.config_of(holder, argv)
    arguments.once(config, argv)
    configs.check(config)
    config.profile = own.profile or config.profile
    workdir = pathlib.Path(own.workdir)
    _resume_hint.append(_command(argv))
    if own.sweep:
        best = sweep.run(config, own.sweep, workdir)
        replaced = {"sweep", "workdir", *(f"{no}config.{key}" for key in best for no in ("", "no"))}
        kept = [word for name, words in arguments.given(argv) if name not in replaced for word in words]
        chosen = [f"--config.{key}={value}" for key, value in best.items()]
        print(f"best:  {_command([argv[0], *kept, *chosen, '--workdir=WORKDIR'])}")
        return 0
    training.train(config, workdir)
    print(f"\ntrained: {workdir}\nnext:    python eval.py --workdir={workdir}")
    return 0


def _command(argv: list[str]) -> str:
    return shlex.join([sys.executable, *argv] if argv[0].endswith(".py") else argv)


def _eval(own: flags.FlagValues) -> int:
    from metapers.experiment import judging

    judging.judge(
        pathlib.Path(own.workdir),
        strategy=own.strategy or None,
        version=own.version,
        split=own.split,
        steps=_numbers("steps", own.steps),
        shots=_numbers("shots", own.shots),
    )
    return 0


def _numbers(name: str, values: list[str] | None) -> tuple[int, ...]:
    if values is None:
        return ()
    try:
        return tuple(int(value) for value in values or [""])
    except ValueError:
        raise ValueError(f"{name} must be integers with commas between them, got {','.join(values)!r}") from None


def _common(own: flags.FlagValues) -> None:
    flags.DEFINE_bool("help", False, "this help", short_name="h", flag_values=own)
    flags.DEFINE_bool("version_only", False, "prints the version of metapers", flag_values=own)
    flags.DEFINE_bool("traceback", False, "shows where in the code an error arose", flag_values=own)


_resume_hint: list[str] = []


def _run(
    body: Callable[[], int], own: flags.FlagValues, argv: list[str], text: str, needed: tuple[str, ...]
) -> NoReturn:
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(argv[1:]):
        print(f"{text}\nFlags:\n{_described(own)}")
        if "config" in needed and arguments.path_of(argv):
            print(f"\n{arguments.about(argv)}")
        raise SystemExit(0)
    if "--version_only" in argv[1:]:
        print(metapers.__version__)
        raise SystemExit(0)
    _quiet()
    try:
        rest = arguments.parse(own, argv)
        if rest:
            raise UsageError(f"unexpected argument {rest[0]!r}: every option is --name=value")
        for name in needed:
            if not own[name].value:
                what = "missing" if own[name].value is None else "empty"
                raise UsageError(f"--{name} is {what}\n\n{text}".rstrip())
        metapers.use_all_cores()
        _cache()
        code = body()
    except UsageError as error:
        print(f"error: {error}\n(--help lists the options)", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped before there was anything to save", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if "--traceback" in argv:
            raise
        code = _failed(error)
    raise SystemExit(code)


def _described(own: flags.FlagValues) -> str:
    rows = []
    for name in own:
        flag = own[name]
        name = flag.name
        default = f" (default: {flag.default})" if flag.default not in (None, "", False, []) else ""
        rows.append(f"  --{name:14}{flag.help}{default}")
    return "\n".join(dict.fromkeys(rows))


def _failed(error: Exception) -> int:
    from metapers.experiment.resuming import Interrupted

    if isinstance(error, Interrupted):
        again = f"\nto go on:  {_resume_hint[0]}" if _resume_hint else ""
        print(f"{error}{again}", file=sys.stderr)
        return 128 + error.signal
    kind = "" if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
    print(f"error: {kind}{error}\n(--traceback shows where)", file=sys.stderr)
    return 1


def _quiet() -> None:
    for name in ("absl", "jax", "orbax"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("asyncio", "concurrent.futures"):  # threads of a save that failed; the failure itself is told
        logging.getLogger(name).setLevel(logging.CRITICAL)
    loop: Any = asyncio.BaseEventLoop
    loop.call_soon_threadsafe = _unless_closed(loop.call_soon_threadsafe)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.excepthook = _from_threads
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def _unless_closed(schedule: Callable) -> Callable:
    """A save that fails in one of its arrays closes its event loop under the others, whose threads then print
    tracebacks over the one error that counts: what comes too late is dropped."""

    def quietly(self: asyncio.BaseEventLoop, callback: Callable, *given: Any, context: Any = None) -> Any:
        return None if self.is_closed() else schedule(self, callback, *given, context=context)

    return quietly


def _from_threads(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if threading.current_thread() is threading.main_thread():
        sys.__excepthook__(kind, error, trace)
    else:  # of tensorstore's own threads, whose event loop is gone after a failed save; the failure itself is told
        logging.getLogger("metapers").debug("in a thread: %r", error)


def _cache() -> None:
    """A persistent compilation cache, so that the second start does not compile again."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "metapers" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
