"""``metapers migrate-config``: the keys of a config file of metapers 0.1 under their present names."""

import pathlib

from absl import flags

from metapers.command.process import Call, Command

HELP = """Rewrites the keys in a config file of metapers 0.1. Prints the new text; what it cannot translate it names.

  metapers migrate-config old.py > new.py
"""


def _define(own: flags.FlagValues) -> None:
    del own


def _body(call: Call) -> int:
    import sys

    from metapers.spec import migrate

    text, left = migrate.migrated(pathlib.Path(call.positional[0]).read_text())
    print(text, end="")
    for line in left:
        print(f"by hand: {line}", file=sys.stderr)
    return 1 if left else 0


MIGRATE_CONFIG = Command("migrate-config", HELP, _define, _body, positional="the old config file")
