"""The text of a config file of metapers 0.1 under the present keys."""

import ast
import re
from typing import Any

from metapers.members import registry
from metapers.options import NONE
from metapers.spec.old_keys import DIVIDED, KINDS, MAKERS, METHOD_NAMES, USUAL, is_choice, made_by, place_of, renamed
from metapers.spec.old_keys import KEYS as KEYS
from metapers.spec.old_keys import migrated_values as migrated_values
from metapers.spec.source_edits import Edit, Source, last_name, literal, root_of

BARE = {key.partition(".")[2]: key for key in KEYS if key.startswith(DIVIDED)}
FLAG = re.compile(rb"""--config\.([a-z_]+(?:\.[a-z_]+)*)(?:=("[^"]*"|'[^']*'|(?:[^\s`;,)]|,(?=\w))*))?""")


def migrated(text: str) -> tuple[str, list[str]]:
    """A config file of metapers 0.1 under the present keys, and one sentence for each place to change by hand.

    Args:
      text: Python; the config in it is called ``config``, or is what ``config_for`` or ``method_config`` returns.

    Raises:
      SyntaxError: for a text that is no Python.
    """
    file = _File(text)
    file.visit(file.source.tree)
    file.flags()
    left = [f"line {line}: {sentence}" for line, sentence in sorted(set(file.left))]
    return file.source.edited(), left


class _File:
    # the edits of one file, and what is left to do

    def __init__(self, text: str):
        self.source = Source(text)
        self.left: list[tuple[int, str]] = []  # line, sentence
        nodes = list(ast.walk(self.source.tree))
        calls = [node for node in nodes if isinstance(node, ast.Call) and last_name(node.func) in MAKERS]
        made = [node for node in nodes if isinstance(node, ast.Assign) and node.value in calls]
        self.roots = {"config"} | {one.id for node in made for one in node.targets if isinstance(one, ast.Name)}
        self.given = {key: value for node in nodes for key, value in self.pairs(node)}
        penalty = self.given.get("continual.penalty")
        self.named = ("anchor",) if penalty is None else literal(penalty)  # None: computed
        self.members = {section: self._members(section, calls, nodes) for section in KINDS}
        self.set_at: dict[str, int] = {}  # the line that last set a key

    def _members(self, section: str, calls: list[ast.Call], nodes: list[ast.AST]) -> set[Any]:
        # those that a section may have, by the text; None: one that the text does not show
        usual: set[Any] = {name for call in calls for name in made_by([literal(one) for one in call.args], section)}
        usual = usual or {USUAL[section]}
        always, found = False, set()
        for node in nodes:
            for key, value in self.pairs(node):
                if place_of(key).new == (f"{section}.name",):
                    found.add(place_of(key).names.get(literal(value), literal(value)))
                    bodies = [one.body for one in nodes if isinstance(one, (ast.Module, ast.FunctionDef))]
                    always = always or any(node in body for body in bodies)
        return found if always else found | usual

    def pairs(self, node: ast.AST) -> list[tuple[str, ast.expr]]:
        """(old key, value) of what a statement sets: ``config.a.b = value``, ``config.a.update(b=value)``."""
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            key = self.key_of(node.targets[0])
            return [(key, node.value)] if key else []
        call = node.value if isinstance(node, ast.Expr) else None
        if not isinstance(call, ast.Call) or last_name(call.func) != "update" or call.args:
            return []
        key = self.key_of(call.func)
        if key is None or any(one.arg is None for one in call.keywords):
            return []
        return [(f"{key.removesuffix('update')}{one.arg}", one.value) for one in call.keywords]

    def key_of(self, node: ast.AST) -> str | None:
        """The dotted key of ``config.a.b``, with "*" for a part that is computed."""
        parts: list[str] = []
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            name = node.attr if isinstance(node, ast.Attribute) else literal(node.slice)
            parts.insert(0, name if isinstance(name, str) else "*")
            node = node.value
        return ".".join(parts) if parts and isinstance(node, ast.Name) and node.id in self.roots else None

    def visit(self, node: Any) -> None:
        """Collects the edits of a node and of what it holds."""
        pairs, key = self.pairs(node), self.key_of(node)
        if any(one in KEYS or is_choice(one) for one, _ in pairs) and not any("*" in one for one, _ in pairs):
            return self._statement(node, pairs)
        self.set_at |= {one: node.lineno for one, _ in pairs}
        for one, value in pairs:
            if one.startswith("optimizer.") and one.endswith("name") and literal(value) == "frozen":
                self._leave(node, '\'frozen\' has no options: spec.choose(config, f"optimizer.{group}", "frozen")')
        if key is not None:
            return self._read(node, key)
        if isinstance(node, ast.Compare) and self._compare(node):
            return None
        if isinstance(node, ast.ImportFrom):
            return self._import(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        self._names(node)
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def _names(self, node: ast.AST) -> None:
        if isinstance(node, ast.Attribute) and last_name(node.value) == "experiment" and node.attr not in MAKERS:
            self._leave(node, f"experiment.{node.attr} is another, or missing, in metapers.spec")
        elif last_name(node) == "experiment":
            self.source.edit(node, "spec" if isinstance(node, ast.Name) else "metapers.spec")
        elif isinstance(node, ast.Constant) and "." in str(node.value) and node.value in KEYS:
            new = self._place(node, str(node.value))
            if new is not None:
                self.source.edit(node, f'"{new.removesuffix(".name")}"')
                self._leave_values(node, str(node.value))
        elif isinstance(node, ast.Dict):
            for one in node.keys:
                if one is not None and (old := BARE.get(str(literal(one)))):
                    news = " or ".join(KEYS[old].new)
                    self._leave(one, f"{literal(one)!r} looks like the key {old}, which is {news} now")

    def _call(self, node: ast.Call) -> None:
        section = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        if self.key_of(node.func) is None:
            self.visit(node.func)
        elif last_name(node.func) == "update" and (node.args or any(one.arg is None for one in node.keywords)):
            self._leave(node, "update() has keys that the text does not show; give them their present names")
        elif (key := self.key_of(section)) is not None:
            self._read(section, key)
        if last_name(node.func) in MAKERS and len(node.args) > 2:
            method = literal(node.args[2])
            if method in METHOD_NAMES:
                self.source.edit(node.args[2], f'"{METHOD_NAMES[method]}"')
            elif method is None:
                self._leave(node, f"the method is computed; {_renamed(METHOD_NAMES)}")
        for child in [*node.args, *node.keywords]:
            self.visit(child)

    def _import(self, node: ast.ImportFrom) -> None:
        names, module = [one.name for one in node.names], node.module or ""
        if module == "metapers" and "experiment" in names:
            texts = [re.sub(r"^experiment\b", "spec", ast.unparse(one)) for one in node.names]
            self.source.edit(node, f"from metapers import {', '.join(sorted(texts))}")
        elif module == "metapers.experiment" and {*names} <= {*MAKERS, "METHODS"}:
            self.source.edit(node, f"from metapers import spec\nfrom metapers.spec import {', '.join(names)}")
        elif module.startswith("metapers.experiment"):
            self._leave(node, f"{', '.join(names)} of {module} is another, or missing, in metapers.spec")

    def _compare(self, node: ast.Compare) -> bool:
        """Whether it holds a key against a literal; the literal has its present name then."""
        key, against = self.key_of(node.left), literal(node.comparators[0])
        if key is None or key not in KEYS or not isinstance(against, str) or len(node.comparators) > 1:
            return False
        self._read(node.left, key, noted=False)
        self._value(key, node.comparators[0])
        return True

    def _read(self, node: ast.expr, key: str, noted: bool = True) -> None:
        if key in DIVIDED or ("*" in key and key.split(".")[0] in DIVIDED):
            self._leave(node, f"the keys of the section {key.split('.')[0]!r} are in several sections now")
        if key in KEYS and (new := self._place(node, key)) is not None:
            start, end = self.source.span(root_of(node))[1], self.source.span(node)[1]
            self.source.edits.append(Edit(start, end, f".{new}"))
            if noted:
                self._leave_values(node, key)

    def _statement(self, node: ast.stmt, pairs: list[tuple[str, ast.expr]]) -> None:
        chosen: dict[str, str] = {}
        options: dict[str, str] = {}
        held = self.members
        for key, value in pairs:  # options in this statement belong to the members that it chooses
            section, name = place_of(key).new[0].split(".")[0], literal(value)
            if name is not None and section in KINDS and place_of(key).new == (f"{section}.name",):
                self.members = self.members | {section: {place_of(key).names.get(name, name)}}
        for key, value in pairs:
            new = self._place(node, key)
            if new is not None:
                (chosen if is_choice(new) else options)[new.removesuffix(".name")] = self._source(key, value)
        self.members = held
        if "penalties" in chosen or ("continual.penalty" not in self.given and "penalties.anchor.strength" in options):
            chosen["penalties"] = self._penalties(node, options, chosen.get("penalties", ""))
            if chosen["penalties"] == "{}":  # as without the line
                del chosen["penalties"]
        root, lines = root_of(node).id, []
        for section in sorted(chosen, key=lambda one: one.count(".")):
            own = {new: one for new, one in options.items() if new.rpartition(".")[0] == section}
            options = {new: one for new, one in options.items() if new not in own}
            empty = chosen[section] in ('"none"', '"frozen"')  # members without options
            given = "".join(f", {new.rpartition('.')[2]}={one}" for new, one in own.items() if not empty)
            lines.append(f'spec.choose({root}, "{section}", {chosen[section]}{given})')
            for new, line in self.set_at.items():
                if new.startswith(f"{section}."):
                    self._leave(node, f"spec.choose resets {new}, which line {line} sets; move that line below")
        self.set_at |= dict.fromkeys(options, node.lineno)
        lines += _assignments(root, options)
        indent = self.source.before(node)
        self.source.edit(node, ("; " if indent.strip() else f"\n{indent}").join(lines) or "pass")

    def _penalties(self, node: ast.stmt, options: dict[str, str], source: str) -> str:
        if self.named is None:
            self._leave(node, "the penalties are computed; a penalty needs a strength above 0")
            return source
        found = []
        for name in self.named:
            own = {new: options.pop(new) for new in list(options) if new.startswith(f"penalties.{name}.")}
            if own or f"continual.{name}_strength" in self.given:
                values = ", ".join(f'"{new.rpartition(".")[2]}": {one}' for new, one in own.items())
                found.append(f'"{name}": {{{values}}}')
        return f"{{{', '.join(found)}}}"

    def _place(self, node: ast.AST, key: str) -> str | None:
        """The present key; None for an option of members that the text does not choose."""
        news = place_of(key).new
        section = news[0].split(".")[0]
        if section == "penalties" and "." in news[0]:
            found = [] if self.named is not None and news[0].split(".")[1] not in self.named else [*news]
            held = str(self.named)
        elif key not in KEYS or section not in KINDS or news[0] == f"{section}.name":
            return news[0]
        else:
            known, held = registry(KINDS[section]), ", ".join(sorted(map(str, self.members[section])))
            hidden = any(one not in known and one != NONE for one in self.members[section])
            members = [one for one in known if one in self.members[section] or hidden]
            having = {new: [one for one in members if new.split(".")[1] in known.options(one)] for new in news}
            found = [new for new in news if having[new]]
            if found and having[found[0]] != members:
                places = " and ".join(f"{new} with {section} {' or '.join(having[new])}" for new in found)
                self._leave(node, f"{key} is {places}; other members have no such option")
        if not found:
            self._leave(node, f"{key} has no effect with {section} {held}, so it is left out")
        return found[0] if found else None

    def _source(self, key: str, value: ast.expr) -> str:
        """The text of a value under its present name."""
        mark = len(self.source.edits)
        self._value(key, value)
        text = self.source.edited(*self.source.span(value), since=mark)
        del self.source.edits[mark:]
        return text

    def _value(self, key: str, value: ast.expr) -> None:
        known, place = literal(value), place_of(key)
        if isinstance(known, str) and known in place.names:
            self.source.edit(value, f'"{place.names[known]}"')
        elif isinstance(known, (tuple, list)) and place.names:
            said = [f'"{one}"' for one in renamed(known, place.names)]
            self.source.edit(value, f"({', '.join(said)}{',' * (len(said) == 1)})")
        elif known is not None and known in place.off:
            self.source.edit(value, "None")
        elif known == 0 and key == "continual.replayed":
            self._leave(value, 'continual.replayed 0 is no memory: spec.choose(config, "memory", "none")')
        elif known is None and isinstance(value, (ast.IfExp, ast.BoolOp)):
            parts = value.values if isinstance(value, ast.BoolOp) else [value.body, value.orelse]
            for part in parts:
                self._value(key, part)
            if isinstance(value, ast.IfExp):
                self.visit(value.test)
        elif known is None:
            self._leave_values(value, key)
            self.visit(value)

    def _leave_values(self, node: ast.AST, key: str) -> None:
        place = place_of(key)
        if place.names:
            self._leave(node, f"of the values of {key} {_renamed(place.names)}")
        if place.off:
            self._leave(node, f"{' or '.join(place.new)} has None in place of {place.off[0]!r}")

    def flags(self) -> None:
        """Edits the command lines in docstrings and comments."""
        for found in FLAG.finditer(self.source.data):
            key, value = found[1].decode(), found[2]
            if key not in KEYS or self.source.is_edited(found.start()):
                continue
            line = ast.Constant(None, lineno=self.source.data[: found.start()].count(b"\n") + 1)
            new = self._place(line, key)
            if new is None:
                continue
            text = f"--config.{new.removesuffix('.name')}"
            if value is not None:
                said, place = value.decode().rstrip("."), place_of(key)
                said = ",".join(re.findall(r"\w+", said)) if new in ("penalties", "arms") else said
                said = ",".join(renamed(one, place.names) for one in said.split(","))
                said = "None" if place.off and said in ("", "0", "0.0") else said
                text += f"={said}" + "." * value.endswith(b".")
            self.source.edits.append(Edit(*found.span(), text))
        for found in re.finditer(rb"metapers\.experiment(?=\.METHODS)", self.source.data):
            self.source.edits.append(Edit(*found.span(), "metapers.spec"))

    def _leave(self, node: Any, sentence: str) -> None:
        self.left.append((node.lineno, sentence))


def _assignments(root: str, options: dict[str, str]) -> list[str]:
    by_section: dict[str, dict[str, str]] = {}
    for new, source in options.items():
        section, _, last = new.rpartition(".")
        by_section.setdefault(f"{root}.{section}".rstrip("."), {})[last] = source
    return [
        f"{section}.update({', '.join(f'{last}={one}' for last, one in own.items())})"
        if len(own) > 1
        else "".join(f"{section}.{last} = {one}" for last, one in own.items())
        for section, own in by_section.items()
    ]


def _renamed(names: Any) -> str:
    return ", ".join(f"{old!r} is {new!r} now" for old, new in names.items())
