"""Passes are recorded in the warm-up, where a device can do that."""

import logging

import pytest

from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.repository import warming
from batchserve.repository.version import ModelVersion
from batchserve.runners import graph_choice
from batchserve.runners.cuda_graph import RecordingBroke
from tests.runners.recording import record

TINY = {"name": "tiny", "source": "tests.models:tiny", "device": "cpu"}


@pytest.fixture
def _can_record(monkeypatch):
    """Let the CPU be a device that can, and for which it pays."""
    monkeypatch.setattr(warming, "recorder_for", lambda _device: record)
    monkeypatch.setattr(graph_choice, "_seconds", lambda *_: (2.0, 1.0))
    monkeypatch.setattr(warming, "is_reproducible", lambda *_: True)


async def load(**keys) -> ModelVersion:
    batching = {"max_batch_size": 4}
    keys = {"cuda_graphs": True, **keys}
    model = ModelVersion(ModelConfig(**TINY, batching=batching, **keys))
    await model.load(lambda _model, _batch: None)
    return model


@pytest.mark.usefixtures("_can_record")
async def test_every_size_of_the_warm_up_is_recorded(caplog):
    caplog.set_level(logging.INFO)
    model = await load()
    assert "tiny:1 CUDA graphs: used for batches of 1, 2, 4; up to 2.00 times" in caplog.text
    assert model.forward_s == {1: 1.0, 2: 1.0, 4: 1.0}
    await model.close()


@pytest.mark.parametrize(
    "keys", [{"cuda_graphs": False}, {"reproducible": True}, {"input_shape": (-1, 10)}]
)
@pytest.mark.usefixtures("_can_record")
async def test_none_is_where_it_is_off_or_shapes_vary(caplog, keys):
    caplog.set_level(logging.INFO)
    model = await load(**keys)
    assert "CUDA graphs" not in caplog.text
    await model.close()


async def test_nor_where_the_device_cannot(caplog):
    caplog.set_level(logging.INFO)
    model = await load()
    assert "CUDA graphs" not in caplog.text
    await model.close()


async def test_a_recording_that_breaks_the_process_fails_the_load(monkeypatch):
    def broken(_function):
        raise RecordingBroke("torch does not recover from that; set cuda_graphs: false")

    monkeypatch.setattr(warming, "recorder_for", lambda _device: broken)
    with pytest.raises(LoadError, match=r"model tiny: torch does not recover.*cuda_graphs: false"):
        await load()
