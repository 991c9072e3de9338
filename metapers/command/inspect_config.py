"""``metapers inspect-config``: a config with every key and value, checked, without a run."""

from absl import flags

from metapers.command import arguments
from metapers.command.process import Call, Command

HELP = """Prints every key of a config with its value, checks it and names the values that have no effect.

  metapers inspect-config --config=synthetic
  metapers inspect-config --config=sinusoid:imaml --config.inner.cg_steps=3
"""


def _define(own: flags.FlagValues) -> None:
    flags.DEFINE_multi_string("allow_plugin", [], "a module that may be imported as a plug-in", flag_values=own)


def _body(call: Call) -> int:
    from metapers.spec import check, unused
    from metapers.spec.tree import leaves

    config = check(arguments.config_of(call.words, call.flags.allow_plugin))
    for key, value in leaves(config):
        print(f"{key} = {value!r}")
    for note in unused(config):
        print(f"note: {note}")
    return 0


INSPECT_CONFIG = Command("inspect-config", HELP, _define, _body, needed=("config",))
