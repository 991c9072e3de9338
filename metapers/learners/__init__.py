"""How the outer loop moves the shared parameters and the start of every user."""

from metapers.learners.joint import JOINT
from metapers.learners.joint import joint as joint
from metapers.learners.maml import MAML
from metapers.learners.maml import maml as maml
from metapers.learners.multi_step import MAML_PLUS_PLUS, MULTI_STEP
from metapers.learners.multi_step import multi_step as multi_step
from metapers.learners.replay import replay as replay
from metapers.learners.reptile import REPTILE
from metapers.learners.reptile import reptile as reptile
from metapers.learners.scheduled import scheduled as scheduled
from metapers.learners.serial import serial as serial
from metapers.members import registry
from metapers.options import Option

MEMBERS = registry("learner", "how the outer loop moves the shared parameters and the start of every user")
MEMBERS.common = {"sequential": Option(False, doc="one optimizer call for each user of the batch, one after the other")}
MEMBERS.add(maml=MAML, multi_step=MULTI_STEP, maml_plus_plus=MAML_PLUS_PLUS, reptile=REPTILE, joint=JOINT)
