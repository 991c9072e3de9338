"""How the outer loop moves the shared parameters and every user's start."""

from metapers.learners.joint import joint as joint
from metapers.learners.maml import maml as maml
from metapers.learners.multi_step import multi_step as multi_step
from metapers.learners.replay import replay as replay
from metapers.learners.reptile import reptile as reptile
from metapers.learners.scheduled import scheduled as scheduled
from metapers.learners.serial import serial as serial
