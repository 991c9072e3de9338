"""From a config to a run and back: the only readers of a config, the only ones that know every name."""

from metapers.experiment.assembly import config_for as config_for
from metapers.experiment.judging import judge as judge
from metapers.experiment.methods import METHODS as METHODS
from metapers.experiment.methods import method_config as method_config
from metapers.experiment.serving import Served as Served
from metapers.experiment.serving import load as load
from metapers.experiment.training import train as train
