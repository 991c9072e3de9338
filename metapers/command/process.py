"""One command as a process: flags in, one clear line out when something is wrong, a quiet terminal, a compile cache."""

import asyncio
import atexit
import contextlib
import ctypes
import gc
import importlib.util
import logging
import os
import pathlib
import re
import shlex
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from absl import flags

import metapers
from metapers.command import arguments
from metapers.command.arguments import UsageError, Words

_M_MMAP_THRESHOLD = -3  # of malloc.h
MOST_CACHED = 2 * 1024**3
"""Bytes of compiled programs that stay on disk."""


class Command(NamedTuple):
    """One command of the program."""

    name: str
    help: str  # its text for --help
    define: Callable[[flags.FlagValues], None]  # adds its own flags
    body: Callable[["Call"], int]  # what it does; returns the exit code
    needed: tuple[str, ...] = ()  # flags that must be given; "config" for a config file
    computes: bool = False  # it uses JAX: all cores are made devices, and compiled programs are cached
    positional: str = ""  # what its one word without dashes is called; empty: it takes none


class Call(NamedTuple):
    """One call of a command."""

    flags: Any  # parsed flag values
    words: Words
    argv: list[str]
    positional: list[str]
    program: list[str]  # the words that start this command in a shell


def run(command: Command, argv: Sequence[str], program: Sequence[str] = ()) -> NoReturn:
    """Runs a command and ends the process: exit code 0, 1 for an error, 2 for a wrong command line, 128 + a signal.

    Args:
      command: what to run.
      argv: the program's name, then its words.
      program: the words that start the command in a shell; empty: Python with the script ``argv[0]``.
    """
    argv, program = list(argv), list(program) or [sys.executable, argv[0]]
    words, own = arguments.split(argv), flags.FlagValues()
    command.define(own)
    _common(own, command)
    _answer_questions(command, argv, words, own)
    _quiet()
    try:
        call = Call(own, words, argv, _parsed(command, own, words), program)
        if command.computes:
            _compiler()
            _allocator()
            metapers.use_all_cores()
            _cache()
        code = command.body(call)
    except UsageError as error:
        if "--traceback" in argv:
            raise
        print(f"error: {error}\n(--help lists the options)", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped before there was anything to save", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if "--traceback" in argv:
            raise
        code = _failed(error, command, shlex.join([*program, *argv[1:]]))
    raise SystemExit(code)


def _common(own: flags.FlagValues, command: Command) -> None:
    if command.computes:
        flags.DEFINE_multi_string("allow_plugin", [], "a module that may be imported as a plug-in", flag_values=own)
    flags.DEFINE_bool("help", False, "this help", short_name="h", flag_values=own)
    flags.DEFINE_bool("version_only", False, "prints the version of metapers", flag_values=own)
    flags.DEFINE_bool("traceback", False, "shows where in the code an error arose", flag_values=own)


def _answer_questions(command: Command, argv: list[str], words: Words, own: flags.FlagValues) -> None:
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(argv[1:]):
        print(f"{command.help}\nFlags:\n{_described(own, command)}")
        if "config" in command.needed and words.path:
            flag = re.compile("--allow[-_]plugin=(.+)")
            allowed = [found[1] for word in words.rest if (found := flag.fullmatch(word))]
            print(f"\n{arguments.about(words, allowed)}")
        raise SystemExit(0)
    if "--version_only" in argv[1:]:
        print(metapers.__version__)
        raise SystemExit(0)


def _parsed(command: Command, own: flags.FlagValues, words: Words) -> list[str]:
    """Parses the flags; the words without dashes. UsageError for whatever is wrong, in one line."""
    rest = [word.replace("--allow-plugin", "--allow_plugin", 1) for word in words.rest]
    try:
        left = own(rest)[1:]
    except flags.Error as error:
        raise UsageError(str(error)) from None
    given = {name: words.path if name == "config" else own[name].value for name in command.needed}
    if len(left) > (1 if command.positional else 0):
        hint = next((f"; did you mean --{name}={left[-1]}?" for name, value in given.items() if value is None), "")
        raise UsageError(f"unexpected argument {left[-1]!r}: every option is --name=value{hint}")
    if (words.path is not None or words.given) and "config" not in command.needed:
        why = "reads the config of a workdir" if "workdir" in command.needed else "reads no config"
        raise UsageError(f"unknown option --config: {command.name} {why}")
    for name, value in given.items():
        if not value:
            raise UsageError(f"--{name} is {'missing' if value is None else 'empty'}\n\n{command.help}".rstrip())
    if command.positional and not left:
        raise UsageError(f"{command.positional} is missing\n\n{command.help}".rstrip())
    return left


def _described(own: flags.FlagValues, command: Command) -> str:
    rows = ["  --config        the config file, or the name of a shipped one; --config.KEY=VALUE sets one of its keys"]
    rows = rows if "config" in command.needed else []
    for name in own:
        flag = own[name]
        default = f" (default: {flag.default})" if flag.default not in (None, "", False, []) else ""
        rows.append(f"  --{flag.name.replace('allow_plugin', 'allow-plugin'):14}{flag.help}{default}")
    return "\n".join(dict.fromkeys(rows))


def _failed(error: Exception, command: Command, again: str) -> int:
    from metapers.run.resume import Interrupted

    if isinstance(error, Interrupted):
        hint = f"\nto go on:  {again}" if "config" in command.needed else ""
        print(f"{error}{hint}", file=sys.stderr)
        return 128 + error.signal
    kind = "" if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
    print(f"error: {kind}{error}\n(--traceback shows where)", file=sys.stderr)
    return 1


def _quiet() -> None:
    atexit.register(gc.freeze)  # nothing is collected one by one where the process ends: a second less
    for name in ("absl", "jax", "orbax"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("asyncio", "concurrent.futures"):  # threads of a save that failed; the failure itself is reported
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
    else:  # of tensorstore's own threads, whose event loop is gone after a failed save; that one is reported
        logging.getLogger("metapers").debug("in a thread: %r", error)


def _compiler() -> None:
    """Lets XLA's compiler for CPUs take its level 2 in place of 3: programs as fast, in two thirds of the time.

    Where JAX has a plug-in for an accelerator, or ``XLA_FLAGS`` gives a level, nothing changes.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" not in given and importlib.util.find_spec("jax_plugins") is None:
        os.environ["XLA_FLAGS"] = f"{given} --xla_backend_optimization_level=2".strip()


def _allocator() -> None:
    """Lets glibc give arrays of 4 MB and more back to the system when they are freed.

    By itself it raises that size up to 32 MB as a process goes on, and keeps what is smaller.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 4 * 1024**2)


def _cache() -> None:
    """A persistent compilation cache, so that the second start does not compile again.

    It is the user's own folder of at most ``MOST_CACHED`` bytes. Compiled programs are code, so a folder that others
    can write is not used.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        folder = home / "metapers" / "xla"
        if not _is_private(folder):
            print(f"note: others can write {folder}, or it cannot be made: programs are compiled anew", flush=True)
            return
        trim(folder, MOST_CACHED)
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _is_private(folder: pathlib.Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
        return folder.stat().st_uid == os.getuid()
    except OSError:
        return False


def trim(folder: pathlib.Path, most: int) -> None:
    """Removes the files of a folder that were written first, until at most ``most`` bytes are left.

    Args:
      folder: holds files alone.
      most: bytes.
    """
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left <= most:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        left -= size
