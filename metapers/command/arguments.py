"""The words of a command line that concern a config: its file, its method and values of its keys."""

import ast
import importlib.util
import inspect
import pathlib
import re
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from metapers.members import load_plugins
from metapers.options import ConfigError, nearest
from metapers.spec import METHODS, Config, check
from metapers.spec import overrides as spec_overrides
from metapers.spec.old_keys import KEYS
from metapers.spec.tree import leaves

SHIPPED = pathlib.Path(__file__).resolve().parents[1] / "configs"
"""The configs that the package holds, each of which ``--config=NAME`` names without its folder."""


class UsageError(ValueError):
    """The command line itself is wrong."""


class Words(NamedTuple):
    """A command line, its words of a config apart."""

    path: str | None  # behind --config, a method behind a colon
    given: list[tuple[str, str]]  # (key, text) of each --config.key
    rest: list[str]  # everything else, the program's name first


def split(argv: Sequence[str]) -> Words:
    """Sorts the words of a command line.

    >>> split(["train", "--config=a.py", "--config.data.shift", "-1", "--noconfig.bank", "--workdir=w"])
    Words(path='a.py', given=[('data.shift', '-1'), ('bank', 'false')], rest=['train', '--workdir=w'])
    """
    path, given, rest, words = None, [], list(argv[:1]), list(argv[1:])
    while words:
        word = words.pop(0)
        found = re.fullmatch(r"--?(no)?config(?:\.([^=]+))?(?:=(.*))?", word, re.DOTALL)
        if not found:
            rest.append(word)
            continue
        no, key, text = found[1], found[2], found[3]
        if text is None and not no and words and not words[0].startswith("--"):
            text = words.pop(0)
        if key is None:
            path = text if text is not None else ""
        else:
            given.append((key, "false" if no else "true" if text is None else text))
    return Words(path, given, rest)


def flags_of(argv: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The flags of a command line in order, each with the words that give it: one, or two without "=".

    >>> flags_of(["train.py", "--config=a.py", "--config.data.shift", "-1"])
    [('config', ['--config=a.py']), ('config.data.shift', ['--config.data.shift', '-1'])]
    """
    found: list[tuple[str, list[str]]] = []
    for word in argv[1:]:
        if flag := re.match(r"--?([a-zA-Z][^=]*)", word):
            found.append((flag[1], [word]))
        elif found:
            found[-1][1].append(word)
    return found


def config_of(words: Words, allowed: Sequence[str] = ()) -> Config:
    """The config that a command line names, with the values that it gives.

    Args:
      words: of the command line.
      allowed: modules that the caller allows as plug-ins.

    Raises:
      UsageError: for a file that is not there, that gives no config or that fails, and for a bad key or value; in one
        line.
    """
    try:
        named = {*allowed, *(spec_overrides.named_plugins(words.given) or ())}
        load_plugins(sorted(named), named)  # before the file, whose own choices may need them
        config = file_config(str(words.path))
        return spec_overrides.apply(config, words.given, allowed)
    except ConfigError as error:
        raise UsageError(str(error)) from error


def file_config(path: str) -> Config:
    """The config of a file, ``path:method`` or the name of a shipped one, ``synthetic`` or ``sinusoid:maml``.

    Raises:
      UsageError: for a file that is not there, that gives no config or that fails, in one line.
    """
    name, _, method = path.partition(":")
    get_config = _get_config(path)
    takes = bool(inspect.signature(get_config).parameters)
    if method and not takes:
        raise UsageError(f"--config={path} cannot be used: get_config() of {name} takes nothing after the colon")
    try:
        config = get_config(method) if method else get_config()
    except Exception as error:  # anything may come from the code of a config
        raise UsageError(f"--config={path} cannot be used: {_sentence(error, file_of(path))}") from error
    if not hasattr(config, "to_dict"):
        raise UsageError(f"--config={path} cannot be used: get_config() must return a ConfigDict, got {config!r}")
    return config


def file_of(path: str) -> pathlib.Path:
    """The file of a ``--config``.

    Raises:
      UsageError: if there is none.
    """
    name = path.partition(":")[0]
    for place in (pathlib.Path(name), SHIPPED / f"{name}.py"):
        if place.is_file():
            return place
    known = sorted(one.stem for one in SHIPPED.glob("*.py"))
    hint = nearest(pathlib.Path(name).stem, known)
    raise UsageError(
        f"--config names no file: {name}; shipped configs are {', '.join(known)}{'; ' if hint else ''}{hint}"
    )


def _module(path: str) -> ModuleType:
    file = file_of(path)
    spec = importlib.util.spec_from_file_location(f"metapers_config_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything may come from the code of a config
        raise UsageError(f"--config={path} cannot be used: {_sentence(error, file)}") from error
    return module


def _get_config(path: str) -> Callable[..., Any]:
    found = getattr(_module(path), "get_config", None)
    if found is None:
        raise UsageError(f"--config={path} cannot be used: it has no get_config() that returns a ConfigDict")
    return found


def about(words: Words, allowed: Sequence[str] = ()) -> str:
    """What a config file says of itself, its methods, and its keys with the values that the command line gives them."""
    try:
        config, file = config_of(words, allowed), file_of(str(words.path))
    except UsageError as error:
        return f"error: {error}"
    said = ast.get_docstring(ast.parse(file.read_text())) or ""
    keys = [f"  --config.{key}={value!r}" for key, value in leaves(config)]
    methods = _methods(_get_config(str(words.path)))
    listed = f"\n\nMethods, after a colon behind the file's name: {', '.join(methods)}" if methods else ""
    return "\n".join([f"{file.name}:\n\n{said}{listed}\n\nKeys (docs/configs.md):", *keys])


def _methods(get_config: Callable[..., Any]) -> list[str]:
    def has(name: str) -> bool:
        try:
            return bool(check(get_config(name)))
        except Exception:  # it takes nothing, or not this one: anything may come from the code of a config
            return False

    return [name for name in METHODS if has(name)]


def _sentence(error: Exception, file: pathlib.Path) -> str:
    """The error of a config's own code in one line, which names the line of an error that the code does not raise."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    near = re.search(r'Did you mean "(.+)" instead of "(.+)"', text)
    if near:
        return f"unknown config key {near[2]!r}; did you mean {near[1]!r}?{_line(error, file)}"
    gone = re.match(r"'?Key \"(\w+)\" does not exist", text)
    if gone:
        return f"unknown config key {gone[1]!r}; {_present(gone[1])}{_line(error, file)}"
    first = (text.splitlines() or [""])[0]
    section = re.match(r"Could not override field '(\w+)'.* type <class '.*ConfigDict'>", first)
    if section or re.fullmatch(r"'\w+' object has no attribute 'items'", first):  # of ml_collections: no dict
        name = repr(section[1]) if section else "a section"
        first = f"{name} holds options: a dict, or spec.choose(config, section, name), sets it"
        if section and section[1] == "arms":
            first = "'arms' holds what each arm overrides: spec.choose(config, 'arms', names or a dict) sets it"
        return f"{first}{_line(error, file)}"
    return first if isinstance(error, ValueError) else f"{type(error).__name__}: {first}{_line(error, file)}"


def _present(name: str) -> str:
    """What may be meant by the last part of a key that is not there.

    >>> _present("strategies"), _present("stages")
    ("did you mean 'arms'?", "did you mean 'data.periods'?")
    """
    now = [place.new[0].removesuffix(".name") for old, place in KEYS.items() if old.rpartition(".")[2] == name]
    return f"did you mean {now[0]!r}?" if now else "spec.choose sets members and arms with their keys"


def _line(error: Exception, file: pathlib.Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f" (line {lines[-1]})" if lines else ""
