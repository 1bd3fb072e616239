from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchserve.config import Config
from batchserve.config_file import read_config
from batchserve.errors import ConfigError

Read = Callable[..., Config]
Refused = Callable[..., str]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that reads a config with those sections, given as Python values."""

    def read(
        server: Any = None, environ: dict[str, str] | None = None, text: str = "", **model
    ) -> Config:
        path = tmp_path / "config.yaml"
        described = {"name": "one", "source": "tests.models:tiny", **model}
        raw = {"models": [described], **({} if server is None else {"server": server})}
        path.write_text(text or yaml.safe_dump(raw), encoding="utf-8")
        return read_config(path, environ or {})

    return read


@pytest.fixture
def refused(read: Read) -> Refused:
    """Return a function that does the same, and returns the message of its refusal."""

    def refused(*args, **kwargs) -> str:
        with pytest.raises(ConfigError) as caught:
            read(*args, **kwargs)
        return str(caught.value)

    return refused
