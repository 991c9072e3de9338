"""A version that adapts users and predicts for them."""

from metapers.serving.served import Served as Served
from metapers.serving.served import load as load
