"""The model repository: names, versions, and what state each is in."""

from batchserve.repository.repository import ModelRepository
from batchserve.repository.trial import Trial
from batchserve.repository.version import ModelVersion, State

__all__ = ["ModelRepository", "ModelVersion", "State", "Trial"]
