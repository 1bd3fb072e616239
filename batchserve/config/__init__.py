"""The configuration as typed, frozen values, which everything below the edge gets.

`config_file.py` reads them. Paths are relative to the file's folder.
"""

from batchserve.config.endpoint import OUR_PATHS, EndpointConfig
from batchserve.config.model import (
    BatchingConfig,
    CandidateConfig,
    ImageConfig,
    ModelConfig,
    is_path,
)
from batchserve.config.server import FetchConfig, ServerConfig, TlsConfig
from batchserve.config.whole import Config

__all__ = [
    "OUR_PATHS",
    "BatchingConfig",
    "CandidateConfig",
    "Config",
    "EndpointConfig",
    "FetchConfig",
    "ImageConfig",
    "ModelConfig",
    "ServerConfig",
    "TlsConfig",
    "is_path",
]
