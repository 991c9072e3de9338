"""Real SIGKILLs at random moments of a shrunken run; each time the resumed end must be the uninterrupted one's.

    python benchmarks/kill_test.py                  # 20 kills of the shrunken synthetic config
    python benchmarks/kill_test.py --all --kills=1  # and one of each case: every member that training can choose
    python benchmarks/kill_test.py --only="gate min_shift" --kills=1

Prints a line for each kill and a count; exits with 1 if any resumed run ended otherwise.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import shrunken  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of the plain run, or of each case")
    parser.add_argument("--all", action="store_true", help="every case too (shrunken.cases), each at most twice")
    parser.add_argument("--only", default="", metavar="CASE", help="one case alone; a wrong name lists them")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    moments, known = random.Random(given.seed), shrunken.cases()
    if given.only and given.only not in known:
        parser.error(f"--only must be one of {list(known)}, got {given.only!r}")
    cases = [] if given.only else [("plain", {}, given.kills)]
    if given.all or given.only:
        names = [given.only] if given.only else list(known)
        most = given.kills if given.only else min(given.kills, 2)
        cases += [(name, shrunken.complete(known[name]), most) for name in names]
    good = done = 0
    for name, changes, kills in cases:
        with tempfile.TemporaryDirectory() as folder:
            for same in killed(name, changes, kills, moments, Path(folder)):
                good, done = good + same, done + 1
    print(f"{good} of {done} killed runs ended bit for bit as the uninterrupted one")
    return 0 if good == done and done else 1


def killed(name: str, changes: dict, kills: int, moments: random.Random, folder: Path):
    """Whether each of ``kills`` killed and resumed runs ended as the uninterrupted one."""
    shrunken.finish(folder / "whole", changes)
    expected, seconds = shrunken.left(folder / "whole"), shrunken.trained_seconds(folder / "whole")
    turn = tries = 0
    while turn < kills:
        workdir, moment = folder / str(tries), moments.uniform(0, seconds)
        tries += 1
        if tries > 10 * kills:
            raise RuntimeError(f"{name}: the run ends before it can be killed")
        if not shrunken.kill_after(workdir, changes, moment):
            continue
        turn += 1
        shrunken.finish(workdir, changes)
        found = shrunken.left(workdir)
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        verdict = "bit-identical" if not wrong else f"DIFFERS in {len(wrong)}: {', '.join(wrong[:3])}"
        print(f"{name}: kill {turn} of {kills} after {moment:.2f} s of {seconds:.2f} s: {verdict}", flush=True)
        yield not wrong


if __name__ == "__main__":
    sys.exit(main())
