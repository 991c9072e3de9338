"""The limits of the design: lines of a file, lines of a function without its docstring, columns of a line."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "metapers"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.relative_to(PACKAGE).parts)
FILE_LINES, FUNCTION_LINES, COLUMNS = 330, 60, 120


def body_lines(function: ast.FunctionDef) -> int:
    """The lines of a function after its signature and docstring."""
    told = isinstance(function.body[0], ast.Expr) and isinstance(function.body[0].value, ast.Constant)
    statements = function.body[1:] if told else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_keeps_the_limits(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= FILE_LINES
    assert not [number for number, line in enumerate(lines, 1) if len(line) > COLUMNS]
    functions = [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.FunctionDef)]
    long = {node.name: body_lines(node) for node in functions if body_lines(node) > FUNCTION_LINES}
    assert not long


def test_a_long_function_is_counted():
    text = 'def f():\n    """Said."""\n' + "\n".join(f"    a{i} = {i}" for i in range(61))
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef) and body_lines(function) == 61
