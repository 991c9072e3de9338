"""Figures that papers publish for the tasks of the shipped configs, by stream and method."""

from collections.abc import Mapping
from typing import NamedTuple

ANTONIOU = "Antoniou, Edwards, Storkey 2019, arXiv:1810.09502"
FINN = "Finn, Abbeel, Levine 2017, arXiv:1703.03400"
LI = "Li, Zhou, Chen, Li 2017, arXiv:1707.09835"
NICHOL = "Nichol, Achiam, Schulman 2018, arXiv:1803.02999"
SNELL = "Snell, Swersky, Zemel 2017, arXiv:1703.05175"
ZINTGRAF = "Zintgraf et al. 2019, arXiv:1810.03642"


class Published(NamedTuple):
    """One published figure."""

    text: str  # in the units of docs/results.md; a dagger: from secondary notes, not compared with the paper's table
    source: str  # the paper that reports it


PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("sinusoid", "maml-5"): Published("1.13 ± 0.18", LI),
    ("sinusoid", "maml"): Published("0.77 ± 0.11", LI),
    ("sinusoid", "maml-20"): Published("0.48 ± 0.08 †", LI),
    ("sinusoid", "meta_sgd-5"): Published("0.90 ± 0.16", LI),
    ("sinusoid", "meta_sgd"): Published("0.53 ± 0.09", LI),
    ("sinusoid", "meta_sgd-20"): Published("0.31 ± 0.05 †", LI),
    ("sinusoid", "cavia"): Published("0.19 ± 0.02 †", ZINTGRAF),
    ("omniglot", "maml"): Published("98.7 ± 0.4", FINN),
    ("omniglot", "fomaml"): Published("98.3 ± 0.5", NICHOL),
    ("omniglot", "meta_sgd"): Published("99.53 ± 0.26", LI),
    ("omniglot", "maml_plus_plus"): Published("99.47", ANTONIOU),
    ("omniglot", "reptile"): Published("97.7", NICHOL),
    ("omniglot", "reptile-support"): Published("95.4", NICHOL),
    ("omniglot", "prototypes"): Published("98.8", SNELL),
    ("omniglot", "prototypes-pool"): Published("98.8", SNELL),
    ("omniglot", "meta_sgd-pool-means"): Published("99.53 ± 0.26", LI),
    ("omniglot", "maml_plus_plus-pool-means"): Published("99.47", ANTONIOU),
    ("omniglot", "prototypes-pool-short"): Published("98.8", SNELL),
    ("omniglot", "meta_sgd-pool-short-means"): Published("99.53 ± 0.26", LI),
    ("omniglot", "maml_plus_plus-pool-short-means"): Published("99.47", ANTONIOU),
    ("omniglot", "maml-20way"): Published("95.8 ± 0.3", FINN),
    ("omniglot", "maml-20way-drawn"): Published("95.8 ± 0.3", FINN),
    ("omniglot", "maml-20way-pool"): Published("95.8 ± 0.3", FINN),
    ("omniglot", "fomaml-20way"): Published("89.4 ± 0.5", NICHOL),
    ("omniglot", "fomaml-20way-drawn"): Published("89.4 ± 0.5", NICHOL),
    ("omniglot", "maml-paper"): Published("98.7 ± 0.4", FINN),
    ("omniglot", "fomaml-paper"): Published("98.3 ± 0.5", NICHOL),
    ("omniglot", "maml-20way-paper"): Published("95.8 ± 0.3", FINN),
    ("omniglot", "fomaml-20way-paper"): Published("89.4 ± 0.5", NICHOL),
    ("omniglot", "maml_plus_plus-20way"): Published("97.65", ANTONIOU),
    ("omniglot", "maml_plus_plus-20way-pool-means"): Published("97.65", ANTONIOU),
}
"""The methods are rows of benchmarks/family.py. No row is a replication: docs/results.md says how far each one is."""


def published(stream: str, method: str) -> str:
    """The figure that a paper reports for a method on a stream, empty if there is none.

    >>> published("omniglot", "maml"), published("wisdm", "maml")
    ('98.7 ± 0.4', '')
    """
    found = PUBLISHED.get((stream, method))
    return found.text if found else ""
