"""``metapers list``: the members that a config can choose."""

from absl import flags

from metapers.command.process import Call, Command

HELP = """Lists the members that a config can choose, of all kinds or of one, with their options.

  metapers list
  metapers list --kind=penalty
  metapers list --markdown      the configuration reference, docs/configs.md
"""


def _define(own: flags.FlagValues) -> None:
    flags.DEFINE_string("kind", None, "one kind of member", flag_values=own)
    flags.DEFINE_bool("markdown", False, "prints the configuration reference", flag_values=own)
    flags.DEFINE_multi_string("plugin", [], "a module that registers further members", flag_values=own)


def _body(call: Call) -> int:
    from metapers.members import load_plugins
    from metapers.spec import reference

    load_plugins(call.flags.plugin, call.flags.plugin)
    if call.flags.markdown:
        print(reference.markdown(), end="")  # the page ends with its own line break
    else:
        print(reference.listed(call.flags.kind))
    return 0


LIST = Command("list", HELP, _define, _body)
