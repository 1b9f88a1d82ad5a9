"""The stages. Each is a function from a frozen config and input artifacts to one artifact, and callable on folders: `attar.stages.prune(...)`."""

import sys

from stages.callable_rooms import StagesPackage

sys.modules[__name__].__class__ = StagesPackage
