"""The stages. Each is a function from a frozen config and input artifacts to one artifact, and callable on folders: `attar.stages.prune.stage(...)`."""

import sys

from attar.stages.callable_rooms import StagesPackage

sys.modules[__name__].__class__ = StagesPackage
