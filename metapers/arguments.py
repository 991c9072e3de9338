"""A config as a command line gives it: read, told of, and what is wrong with it in one line."""

import ast
import pathlib
import re
import runpy
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import config_flags

from metapers.experiment import config as configs


class UsageError(ValueError):
    """The command line itself is wrong."""


def about(argv: list[str]) -> str:
    """What a config file says of itself, its methods, and its keys with the values that the command line gives them."""
    own = flags.FlagValues()
    words = [word for name, group in given(argv) if name.split(".")[0] in ("config", "noconfig") for word in group]
    alone = [argv[0], *words]
    holder = config_flags.DEFINE_config_file("config", None, flag_values=own, sys_argv=alone)
    try:
        parse(own, alone)
        config = config_of(holder, alone)
    except UsageError as error:
        return f"error: {error}"
    file = str(path_of(argv)).partition(":")[0]
    said = ast.get_docstring(ast.parse(pathlib.Path(file).read_text())) or ""
    keys = [f"  --config.{key}={value!r}" for key, value in configs.leaves(config)]
    methods = _methods(runpy.run_path(file)["get_config"])
    told = f"\n\nMethods, after a colon behind the file's name: {', '.join(methods)}" if methods else ""
    return "\n".join([f"{file}:\n\n{said}{told}\n\nKeys (docs/configs.md):", *keys])


def given(argv: list[str]) -> list[tuple[str, list[str]]]:
    """The flags of a command line in order, each with the words that give it: one, or two without "=".

    >>> given(["train.py", "--config=a.py", "--config.data.shift", "-1"])
    [('config', ['--config=a.py']), ('config.data.shift', ['--config.data.shift', '-1'])]
    """
    found: list[tuple[str, list[str]]] = []
    for word in argv[1:]:
        if flag := re.match(r"--?([a-zA-Z][^=]*)", word):
            found.append((flag[1], [word]))
        elif found:
            found[-1][1].append(word)
    return found


def _methods(get_config: Callable[..., Any]) -> list[str]:
    from metapers.experiment import METHODS

    def has(name: str) -> bool:
        try:
            return bool(configs.check(get_config(name)))
        except Exception:  # it takes nothing, or not this one: of a config's own code anything may come
            return False

    return [name for name in METHODS if has(name)]


def parse(own: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parses the flags; what is left over. UsageError in one line for whatever is wrong, in the config file too."""
    try:
        return own(argv)[1:]
    except Exception as error:  # config_flags raises what it likes, from the config's own code too
        if "--traceback" in argv:
            raise
        raise UsageError(_about_config(argv) or str(error)) from None


def _about_config(argv: list[str]) -> str:
    """What is wrong with ``--config=path`` or with the first bad ``--config.key=value``, or nothing."""
    path = path_of(argv)
    if path is None:
        return ""
    own = flags.FlagValues()
    alone = [argv[0], f"--config={path}"]
    holder = config_flags.DEFINE_config_file("config", None, flag_values=own, sys_argv=alone)
    try:
        own(alone)
        config = config_of(holder, alone)
    except UsageError as error:
        return str(error)
    except Exception as error:
        return f"--config={path} cannot be used: {_sentence(error)}"
    known = dict(configs.leaves(config))
    for argument in argv[1:]:
        found = re.fullmatch(r"--?(no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if not found or found[2] in known and found[3] is None:
            continue
        key, text = found[2], found[3]
        if key not in known:
            inside = [name for name in known if name.startswith(f"{key}.")]
            grouped = f"config key {key!r} holds others: set one of them, as {inside[0]}" if inside else ""
            return grouped or configs.unknown_key(config, key)
        try:
            own = flags.FlagValues()
            config_flags.DEFINE_config_file("config", None, flag_values=own, sys_argv=[*alone, argument])
            own([*alone, argument])
        except Exception:
            return f"{key} must be {type(known[key]).__name__} (now {known[key]!r}), got {text!r}"
    return ""


def once(config: Any, argv: list[str]) -> None:
    """Refuses with a UsageError a tuple of the config that is given several times."""
    names = [name for name, _ in given(argv)]
    for key, value in configs.leaves(config):  # the last of several counts, but tuples would be joined
        if isinstance(value, tuple) and (times := names.count(f"config.{key}")) > 1:
            raise UsageError(f"--config.{key} is a tuple, given {times} times: all of it must stand in one")


def path_of(argv: list[str]) -> str | None:
    """What stands behind --config, a method after its colon, or None."""
    for place, argument in enumerate(argv):
        if argument in ("--config", "-config") and place + 1 < len(argv):
            return argv[place + 1]
        if argument.startswith(("--config=", "-config=")):
            return argument.split("=", 1)[1]
    return None


def _sentence(error: Exception) -> str:
    """The error of a config's own code in one line: its last one, without the traceback that absl puts before it."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    if "has no attribute 'get_config'" in text:
        return "it has no get_config() that returns a ConfigDict"
    if re.search(r"get_config\(\) takes \d+ positional arguments? but", text):
        return "its get_config() takes nothing after the colon"
    near = re.search(r'Did you mean "(.+)" instead of "(.+)"', text)
    if near:
        return f"unknown config key {near[2]!r}; did you mean {near[1]!r}?"
    line = (text.splitlines() or [""])[-1]
    kind = "" if re.match(r"\w+: ", line) else f"{type(error).__name__}: "
    return re.sub(r"^((IllegalFlag)?ValueError: )+", "", f"{kind}{line}")


def config_of(holder: Any, argv: list[str]) -> Any:
    """The config that a parsed flag holds; UsageError for a file that is not there or gives none."""
    path = path_of(argv)
    if path is not None and not pathlib.Path(path.split(":")[0]).is_file():
        raise UsageError(f"--config names no file: {path}")
    config = holder.value
    if not hasattr(config, "to_dict"):
        raise UsageError(f"--config={path} cannot be used: its get_config() must return a ConfigDict, got {config!r}")
    return config
