"""Variable types: what a parameter is, said where it is born, so that a config can name what adapts.

A config's ``model.adapts`` picks types: ``Head`` alone is ANIL (Raghu et al. 2020, arXiv:1909.09157), ``Body`` alone
BOIL (Oh et al. 2021, arXiv:2008.08882), ``Context`` alone CAVIA (Zintgraf et al. 2019, arXiv:1810.03642), ``Bias``
alone BitFit (Ben Zaken et al. 2022, arXiv:2106.10199), ``LowRank`` LoRA (Hu et al. 2022, arXiv:2106.09685).
``group`` names the optimizer that moves a type; a type without one is a group of its own (its lower-case name).
"""

from flax import nnx

from metapers.models.seam import EVERYTHING, Personal
from metapers.options import Option, nearest


class Body(nnx.Param):
    """What is below the last layer."""

    group = "param"


class Head(Personal):
    """The last layer: personal where nothing else is asked for."""

    group = "personal"


class Bias(nnx.Param):
    """An offset that is added."""

    group = "param"


class BodyBias(Body, Bias):
    """An offset below the last layer."""


class HeadBias(Head, Bias):
    """An offset of the last layer."""


class Context(Personal):
    """A vector beside the inputs, zero at first (its start is learned, as is the bias that it adds to)."""

    group = "personal"


class Film(Personal):
    """Scale and shift of features, one and zero at first."""

    group = "personal"


class LowRank(Personal):
    """A product of two thin matrices on top of a shared one, zero at first."""

    group = "personal"


class Written(Personal):
    """What a module's ``write`` computes from a user's support set; empty at the start.

    ``inner.written`` gives the start no gradient. Loops that go a part of the way (``gated``, ``tempered``) do; a
    learner through them must not change it.
    """

    group = "written"


BIASES = {Body: BodyBias, Head: HeadBias}  # the type of the offset that belongs to weights of a type

ADAPTS: dict[str, tuple[type[nnx.Variable], ...]] = {
    "all": EVERYTHING,
    "personal": (Personal,),
    "head": (Head,),
    "body": (Body,),
    "biases": (Bias,),
    "context": (Context,),
    "film": (Film,),
    "low_rank": (LowRank,),
}
"""Names of layer sets; several are joined by "+" in a config."""

ADAPTS_OPTION = Option(
    "personal", type=str, doc=f"types of the personal parameters: {', '.join(ADAPTS)}, joined by '+'"
)
"""The option of a model whose personal parameters a config chooses."""

ADDED_OPTIONS = {
    "film": Option(False, doc="a personal scale and shift of features (FiLM)"),
    "low_rank": Option(0, least=0, doc="rank of personal products on top of shared kernels (LoRA); 0 for none"),
}
"""The options of a model with personal parameters that change nothing at first."""


def adapted(names: str) -> tuple[type[nnx.Variable], ...]:
    """The Variable types of a layer set, or of several joined by "+".

    Args:
      names: of ``ADAPTS``; empty for none.

    Raises:
      ValueError: for an unknown name.

    Example:
      >>> [kind.__name__ for kind in adapted("head+biases")]
      ['Head', 'Bias']
    """
    found: dict[type[nnx.Variable], None] = {}
    for name in (part.strip() for part in names.split("+") if names):
        if name not in ADAPTS:
            hint = nearest(name, ADAPTS)
            raise ValueError(f"adapts must be one of {list(ADAPTS)}, got {name!r}{f'; {hint}' if hint else ''}")
        found |= dict.fromkeys(ADAPTS[name])
    return tuple(found)
