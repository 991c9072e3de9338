"""What a config can say, as text: made from the entries of the registries, and nowhere written by hand."""

from collections.abc import Iterator, Mapping
from typing import Any

from metapers.members import Member, kinds, load_installed, registry
from metapers.options import Arms, Choice, ConfigError, Option, Schema, nearest
from metapers.spec.heads import fits, model_facts, source_facts
from metapers.spec.methods import METHODS, Method
from metapers.spec.root import ARM, OPERATIONAL, OVERRIDES, PLACES, ROOT, SHIPPED_ARMS

HEAD = """# Configuration reference

This page is generated: `metapers list --markdown`. A config has the keys below and the options of the members that it
chooses, no others. `metapers inspect-config --config=FILE` prints those of one config.

On a command line `--config.KEY=VALUE` sets a key. A section takes the name of a member, `--config.inner=implicit`, and
its options beside it in the same command, `--config.inner.cg_steps=3`. Where the member of a section changes, options
that both members have keep their values. `--config.penalties=ewc,anchor` chooses several members. In a config file,
`spec.choose(config, "inner", "implicit", cg_steps=3)` does the same.

*required*: the option has no default. *carried*: the state carries the value, so other values run the same compiled
program and a search trains them together.
"""

RESUME = """A run goes on under the same config. Only these keys may have other values then:

- keys that cannot change a number: {operational};
- keys that name a place, as a digest binds the data that are there: {places}.
"""


ARMS = """An arm is the config, but for the keys that it overrides: those below and {keys}. Every other key is the same
for all arms, so that their rows can be compared. `--config.arms=fine_tune,continual` chooses shipped arms. In a config
file, `spec.choose(config, "arms", {{"er": {{"penalties": ()}}, "ewc": {{"memory": "none"}}}})` makes two arms that
differ in what keeps the past. `--config.arms.continual.memory.capacity=64` sets an option of one arm. A dict of
penalties names all that the arm has.
"""


def _shipped() -> str:
    lines = ["| arm | overrides |", "|---|---|"]
    for name, section in SHIPPED_ARMS.items():
        said = ", ".join(f"{key} = {value or 'none'}" for key, value in section.items())
        lines.append(f"| `{name}` | {said or 'nothing'} |")
    return "\n".join(lines) + "\n"


def listed(kind: str | None = None) -> str:
    """The members of a kind, or of all, with their options, for a terminal.

    Raises:
      ConfigError: for an unknown kind.
    """
    load_installed()
    if kind is not None and kind not in kinds():
        raise ConfigError("kind", kind, f"one of {sorted(kinds())}", nearest(kind, kinds()))
    lines = []
    for one in kinds() if kind is None else (kind,):
        lines.append(f"{one}: {registry(one).doc}")
        for name, member in registry(one).items():
            lines.append(f"  {name:20}{member.about()}")
            for key, option in registry(one).options(name).items():
                lines.append(f"      {key:22}{_bound(option)}; {_default(option)}. {option.doc}".rstrip(". ") + ".")
        lines.append("")
    return "\n".join(lines).rstrip()


def markdown() -> str:
    """The configuration reference, docs/configs.md."""
    load_installed()
    said = {"operational": OPERATIONAL, "places": PLACES}
    resume = RESUME.format(**{name: ", ".join(f"`{key}`" for key in keys) for name, keys in said.items()})
    parts = [HEAD, "## Keys of every config\n", _table(_flat(ROOT)), resume]
    parts += [
        "## Arms\n",
        ARMS.format(keys=", ".join(f"`{key}`" for key in OVERRIDES)),
        _table(ARM.items()),
        _shipped(),
    ]
    parts += ["## Models of each source\n", _fitting(), "## Published methods\n", _methods()]
    for kind in kinds():
        parts.append(f"## {kind}: {registry(kind).doc}\n")
        for name, member in registry(kind).items():
            parts.append(_member(kind, name, member))
    return "\n".join(parts).rstrip() + "\n"


def _flat(schema: Schema, prefix: str = "") -> Iterator[tuple[str, Option | Choice | Arms]]:
    for key, one in schema.items():
        if isinstance(one, (Option, Choice, Arms)):
            yield f"{prefix}{key}", one
        else:
            yield from _flat(one, f"{prefix}{key}.")


def _table(rows: Any) -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, one in rows:
        lines.append(f"| `{key}` | {_escaped(_bound(one))} | {_escaped(_default(one))} | {_escaped(one.doc)} |")
    return "\n".join(lines) + "\n"


def _member(kind: str, name: str, member: Member) -> str:
    text = f"### {kind} `{name}`\n\n{_capital(member.about())}."
    text += f" Source: {member.paper}." if member.paper else ""
    own = registry(kind).options(name)
    return f"{text}\n\n{_table(own.items())}" if own else f"{text}\n"


def _fitting() -> str:
    lines = ["| source | inputs to targets | models | heads that are computed from the support |", "|---|---|---|---|"]
    for name in registry("source"):
        source = source_facts({"name": name})
        fitting = [model for model in registry("model") if fits(source, model_facts({"name": model}))]
        with_head = any("head" in registry("model").options(model) for model in fitting)
        heads = [head for head, one in registry("head").items() if with_head and source.targets in one.facts.targets]
        said = " | ".join(", ".join(f"`{one}`" for one in names) or "none" for names in (fitting, heads))
        lines.append(f"| `{name}` | {source.inputs} to {source.targets} | {said} |")
    return "\n".join(lines) + "\n"


def _methods() -> str:
    lines = ["| method | members | options of the model |", "|---|---|---|"]
    for name, method in METHODS.items():
        lines.append(f"| `{name}` | {_chosen(method)} | {_pairs(method.model)} |")
    more = (
        "`spec.method_config(source, backbone, method)` makes a config; rates and steps are for each stream to choose."
    )
    return "\n".join([*lines, "", more, ""])


def _chosen(method: Method) -> str:
    found = {section: name for section, (name, _) in method.chosen.items()}
    found |= {
        f"{section}.{key}": value for section, (_, options) in method.chosen.items() for key, value in options.items()
    }
    return _pairs(found | ({"model.head": method.head} if method.head else {}))


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items()) or "the defaults"


def _bound(one: Option | Choice | Arms) -> str:
    if isinstance(one, Arms):
        return f"arms: {', '.join(SHIPPED_ARMS)}, or others with what they override"
    if isinstance(one, Choice):
        names = ", ".join(registry(one.kind))
        return f"{one.kind}: {names}{', none' if one.optional else ''}{'; several' if one.many else ''}"
    return f"{one.bound()}{' (carried)' if one.traced else ''}"


def _default(one: Option | Choice | Arms) -> str:
    if isinstance(one, Arms):
        return ", ".join(one.default)
    if isinstance(one, Choice):
        return ", ".join(one.default) or "none" if isinstance(one.default, tuple) else one.default or "none"
    return "required" if one.required else repr(one.default)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")
