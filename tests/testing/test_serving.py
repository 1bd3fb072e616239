"""A config served in a test's process."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from batchserve.errors import ConfigError, LoadError
from batchserve.testing import serving

TINY = {"name": "tiny", "source": "tests.models:tiny", "device": "cpu"}


async def test_a_mapping_is_served():
    async with serving({"models": [TINY]}) as client:
        response = await client.post("/predict", json={"input": [0.0] * 10})
        assert response.status == 200
        assert len((await response.json())["output"]) == 10


async def test_a_file_is_served_with_the_modules_beside_it_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "beside_the_config.py").write_text("import torch\nsame = torch.nn.Identity()\n")
    config = tmp_path / "my.yaml"
    config.write_text("models: [{name: same, source: 'beside_the_config:same'}]")
    monkeypatch.setenv("BATCHSERVE_MODELS__0__NAME", "another")
    path = sys.path.copy()
    async with serving(config) as client:
        response = await client.post("/models/same/predict", json={"input": [1, 2]})
        assert (await response.json())["output"] == [1.0, 2.0]
    assert sys.path == path


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"models": []}, ValidationError),
        ("nowhere.yaml", ConfigError),
        ({"models": [{**TINY, "source": "tests.models:huge"}]}, LoadError),
    ],
)
async def test_what_cannot_start_raises(config, error):
    with pytest.raises(error):
        async with serving(config):
            pass
