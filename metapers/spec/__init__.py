"""From a config to its parts: the only package that reads a config as a whole, and the last one that sees names."""

from metapers.spec.arms import Arm as Arm
from metapers.spec.arms import arms as arms
from metapers.spec.arms import leading as leading
from metapers.spec.building import Components as Components
from metapers.spec.building import components as components
from metapers.spec.methods import METHODS as METHODS
from metapers.spec.methods import method_config as method_config
from metapers.spec.notes import unused as unused
from metapers.spec.overrides import merged as merged
from metapers.spec.root import BASELINE as BASELINE
from metapers.spec.tree import Config as Config
from metapers.spec.tree import choose as choose
from metapers.spec.tree import config_for as config_for
from metapers.spec.tree import from_plain as from_plain
from metapers.spec.tree import plain as plain
from metapers.spec.validate import check as check
