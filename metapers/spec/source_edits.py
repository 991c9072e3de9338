"""Edits of a Python text at the places of its syntax tree."""

import ast
from typing import Any, NamedTuple


class Edit(NamedTuple):
    """Another text in place of some bytes."""

    start: int
    end: int
    text: str


class Source:
    """A Python text, the places of its nodes in bytes, and the edits so far."""

    def __init__(self, text: str):
        """
        Args:
          text: what is edited.

        Raises:
          SyntaxError: for a text that is no Python.
        """
        self.tree, self.data = ast.parse(text), text.encode()
        self.edits: list[Edit] = []
        self._starts = [0]
        for line in self.data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: Any) -> tuple[int, int]:
        """First and last byte of a node."""
        first, last = self._starts[node.lineno - 1], self._starts[node.end_lineno - 1]
        return first + node.col_offset, last + node.end_col_offset

    def before(self, node: Any) -> str:
        """The text before a node in its line."""
        return self.data[self._starts[node.lineno - 1] : self.span(node)[0]].decode()

    def edit(self, node: ast.AST, text: str) -> None:
        """Puts a text in place of a node."""
        self.edits.append(Edit(*self.span(node), text))

    def is_edited(self, byte: int) -> bool:
        """Whether an edit covers a byte."""
        return any(one.start <= byte < one.end for one in self.edits)

    def edited(self, start: int = 0, end: int | None = None, since: int = 0) -> str:
        """The text between two bytes after the edits; these must lie between the bytes.

        Args:
          start: the first byte.
          end: the last one; None: that of the text.
          since: the number of edits to leave out, the oldest.
        """
        parts, at = [], start
        for one in sorted(self.edits[since:]):
            parts += [self.data[at : one.start], one.text.encode()]
            at = one.end
        return b"".join([*parts, self.data[at:end]]).decode()


def literal(node: ast.AST) -> Any:
    """The value of a literal; None for an expression that is computed.

    >>> literal(ast.parse("(1, 2)", mode="eval")), literal(ast.parse("a + 1", mode="eval"))
    ((1, 2), None)
    """
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError, SyntaxError):
        return None


def last_name(node: ast.AST) -> str | None:
    """``c`` of ``a.b.c`` and of ``c``; None for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def root_of(node: ast.AST) -> ast.Name:
    """The name that an attribute, an assignment to one or a call of one begins with."""
    inner = node.targets[0] if isinstance(node, ast.Assign) else node.value if isinstance(node, ast.Expr) else node
    while not isinstance(inner, ast.Name):
        inner = inner.func if isinstance(inner, ast.Call) else inner.value  # type: ignore[attr-defined]
    return inner
