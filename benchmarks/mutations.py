"""Do the tests catch small mistakes? The same mistakes, one after another, in two checkouts of the project.

    python benchmarks/mutations.py --old FOLDER --new FOLDER --label before    # tests the suite of the old checkout
    python benchmarks/mutations.py --old FOLDER --new FOLDER --label after     # tests that of the new one

Which lines of the members are broken, and how, follows from --seed and the old checkout alone; a line counts if it
stands once in the file of the same path in both (without --new: all that were drawn). Each mistake is made in a
throw-away copy, in which the nearest test files run that pass without it and together need at most two thirds of
--seconds, so that an end by --seconds is mostly an endless loop. Given again, the command goes on where it stopped.
"""

import argparse
import ast
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = "inner learners penalties memory aggregate models scores tasks baselines"
MEMBERS = ["base", "keys", "trees", "users", "held_out", "store*", *(f"{one}/[!_]*" for one in PACKAGES.split())]
OPERATORS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "and": "or", "or": "and"}
OPERATORS |= {"in": "not in", "not in": "in", "is": "is not", "is not": "is", "&": "|", "+": "-", "-": "+"}
OPERATORS |= {"*": "/", "/": "*", "//": "*", "**": "*", "%": "*"}
PAIRS = "min max, minimum maximum, argmin argmax, any all, zeros ones, zeros_like ones_like, floor ceil, sin cos"
NAMES = {a: b for pair in PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}
NOT_COPIED = (".git", ".venv*", ".cache", ".*_cache", ".hypothesis", "__pycache__", "runs", "build", "*.egg-info")
VERDICTS = ("caught", "survived", "timed out")


class Mutation(NamedTuple):
    """One line of one file and what stands there instead."""

    path: str
    line: str
    mutated: str

    @property
    def name(self) -> str:
        return f"{self.path}: {self.line.strip()} -> {self.mutated.strip()}"


def edits(node: ast.AST, lines: list[str]) -> Iterator[tuple[int, int, int, str]]:
    """(line number, first column, end, new text) of each small change of a node."""
    match node:
        case ast.Compare() | ast.BinOp() | ast.BoolOp():
            for left, right in pairwise(part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)):
                gap = lines[left.end_lineno - 1][left.end_col_offset : right.col_offset]
                operator = gap.strip(" ()")
                if left.end_lineno == right.lineno and operator in OPERATORS:
                    start = left.end_col_offset + gap.index(operator)
                    yield right.lineno, start, start + len(operator), OPERATORS[operator]
        case ast.UnaryOp(op=ast.USub() | ast.Not() as sign):
            yield node.lineno, node.col_offset, node.col_offset + (3 if isinstance(sign, ast.Not) else 1), ""
        case ast.Constant(value=bool(value)):
            yield node.lineno, node.col_offset, node.end_col_offset, str(not value)
        case ast.Constant(value=int(value) | float(value)) if value + 1 != value:
            yield node.lineno, node.col_offset, node.end_col_offset, repr(value + 1)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in NAMES:
            yield node.end_lineno, node.end_col_offset - len(name), node.end_col_offset, NAMES[name]


def changes(source: str) -> Iterator[tuple[str, str]]:
    """(line, mutated line) of a file's unique lines, but for annotations, texts and what is raised."""
    lines, skipped = source.splitlines(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.arg) or id(node) in skipped:
            skipped |= set(map(id, ast.iter_child_nodes(node)))
            continue
        skipped |= {id(getattr(node, name, None)) for name in ("annotation", "returns", "msg")}
        for row, start, end, text in edits(node, lines):
            line = lines[row - 1]
            if lines.count(line) == 1 and line.isascii():  # columns are counted in bytes
                yield line, line[:start] + text + line[end:]


def drawn(checkout: Path, seed: int, number: int) -> list[Mutation]:
    """``number`` mutations of different lines, in an order that a larger ``number`` keeps."""
    found = defaultdict(list)
    for path in sorted(path for member in MEMBERS for path in checkout.glob(f"metapers/{member}.py")):
        for line, mutated in changes(path.read_text()):
            found[path.relative_to(checkout).as_posix(), line].append(mutated)
    chance, order = random.Random(seed), sorted(found)
    chance.shuffle(order)
    return [Mutation(*where, chance.choice(found[where])) for where in order[:number]]


def stands(mutation: Mutation, checkout: Path) -> bool:
    path = checkout / mutation.path
    return path.exists() and path.read_text().splitlines().count(mutation.line) == 1


@cache
def imports(path: Path, checkout: Path) -> set[str]:
    """Dotted names that a test file imports, itself or through helpers in tests/."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    helpers = [checkout / f"{name.replace('.', '/')}.py" for name in names if name.startswith("tests.")]
    return names.union(*(imports(helper, checkout) for helper in helpers if helper.exists() and helper != path))


def nearest(path: str, checkout: Path, without: list[str]) -> list[str]:
    """Test files that reach a module: named after it or its package, importing it, contracts, mentioning it.

    A file whose tests are all marked ``benchmarks`` does not count: `make test` leaves it out.
    """
    ranked, module = [], path.removesuffix(".py").replace("/", ".")
    package, _, stem = module.rpartition(".")
    for test in sorted((checkout / "tests").rglob("test_*.py")):
        found = imports(test, checkout)
        if "pytestmark = pytest.mark.benchmarks" in test.read_text():
            continue
        if test.name in without or not (module in found or package != "metapers" and package in found):
            continue
        mentions = len(re.findall(rf"\b{stem}\b", test.read_text()))
        named = test.stem.removeprefix("test_") in (stem, package.rpartition(".")[2])
        ranks = [named, module in found, test.parent.name == "contracts", mentions > 0]
        if any(ranks):
            ranked.append((ranks.index(True), -mentions, test.relative_to(checkout).as_posix()))
    return [name for _, _, name in sorted(ranked)]


class Copy:
    """A throw-away copy of a checkout in which tests run."""

    def __init__(self, checkout: Path, folder: Path):
        self.root = folder / "copy"
        shutil.copytree(checkout, self.root, ignore=shutil.ignore_patterns(*NOT_COPIED))
        programs = str(Path(tempfile.gettempdir()) / "metapers-programs")
        self.environment = {"METAPERS_TEST_CACHE": programs, **os.environ, "PYTHONPATH": str(self.root)}

    def pytest(self, files: list[str], limit: int) -> dict[str, Any]:
        """The verdict of test files within ``limit`` seconds of the processor (forty times that by the clock)."""
        command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", "0"]
        how = dict(cwd=self.root, env=self.environment, stderr=subprocess.STDOUT, timeout=40 * limit)
        how["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        before = sum(os.times()[2:4])  # of ended children
        with (self.root.parent / "output.txt").open("w") as output:
            try:
                code = subprocess.run([*command, "--hypothesis-seed=0", *files], stdout=output, **how).returncode
            except subprocess.TimeoutExpired:
                code = -signal.SIGKILL
        text = (self.root.parent / "output.txt").read_text()
        shutil.rmtree(self.root / ".hypothesis", ignore_errors=True)
        assert code not in (4, 5), f"pytest found no test to run:\n{text[-2000:]}"
        verdict = "timed out" if code in (-signal.SIGXCPU, -signal.SIGKILL) else "caught" if code else "survived"
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
        return {"verdict": verdict, "by": "".join(failed[:1]), "seconds": round(sum(os.times()[2:4]) - before, 1)}

    def tested(self, mutation: Mutation, files: list[str], limit: int) -> dict[str, Any]:
        """What test files say of one mutation, which is undone afterwards."""
        path = self.root / mutation.path
        intact = path.read_text()
        path.write_text(re.sub(f"^{re.escape(mutation.line)}$", lambda _: mutation.mutated, intact, flags=re.MULTILINE))
        try:
            return mutation._asdict() | {"tests": files} | self.pytest(files, limit)
        finally:
            path.write_text(intact)


def affordable(tests: list[str], plain: dict[str, Any], seconds: float) -> list[str]:
    """The first test files that pass without a mutation and together stay within ``seconds``."""
    chosen: list[str] = []
    for test in (test for test in tests if plain[test]["verdict"] == "survived"):
        if plain[test]["seconds"] <= seconds:
            chosen, seconds = [*chosen, test], seconds - plain[test]["seconds"]
    return chosen


def keep(results: dict[str, Any], path: Path) -> None:
    """Writes all that was found and the table of what was chosen."""
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(beside, path)
    path.with_suffix(".md").write_text(table(results))


def table(results: dict[str, Any]) -> str:
    rows = [results["records"][name] for name in results["chosen"] if name in results["records"]]
    counts = ", ".join(f"{sum(row['verdict'] == verdict for row in rows)} {verdict}" for verdict in VERDICTS)
    lines = [f"# {len(rows)} of {len(results['chosen'])} mutations: {counts}", "", f"    {results['command']}", ""]
    lines += [f"Revision {results['revision']}, {results['date']}. Seconds are the processor's.", ""]
    lines += [f"| file | line | mutated | {' | '.join(VERDICTS)} | by | seconds |", "|---" * 8 + "|"]
    for row in rows:
        marks = ["x" if row["verdict"] == verdict else "" for verdict in VERDICTS]
        code = [f"`` {row[name].strip()} ``".replace("|", "\\|") for name in ("line", "mutated")]
        lines.append(f"| {' | '.join([row['path'], *code, *marks, row['by'], format(row['seconds'], '.0f')])} |")
    return "\n".join(lines) + "\n"


def about(checkout: Path) -> dict[str, str]:
    """The command, with every path outside the project named PATH, and the revision that was tested."""
    git = lambda *words: subprocess.check_output(["git", "-C", str(checkout), *words], text=True).strip()
    words = ["python benchmarks/mutations.py", *(re.sub("(^|=)/.*", r"\1PATH", word) for word in sys.argv[1:])]
    revision = git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    return {"command": " ".join(words), "revision": revision, "date": time.strftime("%Y-%m-%d")}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="the checkout from which lines are drawn")
    parser.add_argument("--new", type=Path, help="the checkout in which a line must stand too")
    parser.add_argument("--label", choices=("before", "after"), default="before", help="test the old or the new one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw", type=int, default=60)
    parser.add_argument("--keep", type=int, default=40, help="how many that stand in both count, with --new")
    parser.add_argument("--seconds", type=int, default=90, help="of processor time for the tests of one mutation")
    parser.add_argument("--files", type=int, default=6, help="the most test files for one mutation")
    parser.add_argument("--without", nargs="*", default=[], help="names of test files that do not run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    checkout, chosen = given.old if given.label == "before" else given.new, drawn(given.old, given.seed, given.draw)
    chosen = [one for one in chosen if stands(one, given.new)][: given.keep] if given.new else chosen
    path = given.out / f"mutations_{given.label}.json"
    results = json.loads(path.read_text()) if path.exists() else {"plain": {}, "records": {}}
    results |= about(checkout) | {"chosen": [one.name for one in chosen]}
    plain, records = results["plain"], results["records"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(checkout, Path(folder))
        for one in (one for one in chosen if one.name not in records):
            tests = nearest(one.path, checkout, given.without)[: given.files]
            for test in (test for test in tests if test not in plain):
                copy.pytest([test], 20 * given.seconds)  # compiles all programs
                plain[test] = copy.pytest([test], given.seconds)
                keep(results, path)
            files = [one.path, *affordable(tests, plain, given.seconds * 2 / 3)]
            records[one.name] = copy.tested(one, files, given.seconds)
            print(f"{records[one.name]['verdict']}: {one.name}", flush=True)
            keep(results, path)
    keep(results, path)


if __name__ == "__main__":
    main()
