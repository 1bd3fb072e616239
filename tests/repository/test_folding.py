"""A version's batch norms are folded as it is loaded, and so are those that `tune` measures."""

import logging

import pytest
import torch
from torch import nn

from batchserve.loading import place_module
from batchserve.repository.version import ModelVersion
from batchserve.runners import candidate
from batchserve.runners.candidate import Subject
from tests.loading.models import convolved

CONVOLVED = {"source": "tests.loading.models:convolved", "input_shape": [3, 8, 8]}


async def norm_of(config, caplog) -> tuple[type[nn.Module], str]:
    """Load a version, and return what is in the place of its norm, and the log."""
    version = ModelVersion(config.models[0])
    with caplog.at_level(logging.INFO):
        await version.load(lambda _model, _batch: None)
    assert version._module is not None
    module = version._module()
    assert module is not None
    await version.close()
    return type(module.norm), caplog.text


async def test_a_version_folds_what_it_loads(configure, caplog):
    kind, log = await norm_of(configure(**CONVOLVED), caplog)
    assert kind is nn.Identity
    assert "tiny:1 batch norms: 1 folded into convolutions, answers differ by " in log


async def test_it_folds_before_it_rounds(configure, caplog):
    kind, log = await norm_of(configure(**CONVOLVED, precision="bf16"), caplog)
    assert kind is nn.Identity
    assert "tiny:1 batch norms: 1 folded into convolutions, answers differ by " in log


async def test_it_leaves_them_where_the_config_says_so(configure, caplog):
    kind, log = await norm_of(configure(**CONVOLVED, fold_batch_norms=False), caplog)
    assert kind is nn.BatchNorm2d
    assert "batch norms" not in log


async def test_a_model_without_any_is_not_talked_about(configure, caplog):
    version = ModelVersion(configure().models[0])
    with caplog.at_level(logging.INFO):
        await version.load(lambda _model, _batch: None)
    await version.close()
    assert "batch norms" not in caplog.text


async def test_it_tries_with_the_cores_of_a_pass(configure, monkeypatch):
    said = []
    monkeypatch.setattr(
        "batchserve.repository.version.fold_batch_norms",
        lambda _module, _task, threads: said.append(threads),
    )
    version = ModelVersion(configure(**CONVOLVED).models[0], threads=2)
    await version.load(lambda _model, _batch: None)
    await version.close()
    assert said == [2]


@pytest.mark.parametrize(("folds", "kind"), [(True, nn.Identity), (False, nn.BatchNorm2d)])
def test_tune_measures_what_would_be_served(configure, monkeypatch, folds, kind):
    placed = []

    def place(module, *args):
        placed.append(module)
        return place_module(module, *args)

    monkeypatch.setattr(candidate, "place_module", place)
    config = configure(**CONVOLVED, fold_batch_norms=folds).models[0]
    found = Subject(config).make(config, 1)
    assert {type(module.norm) for module in placed} == {kind}
    with torch.inference_mode():
        expected = convolved()(torch.stack(list(found._items)))
    torch.testing.assert_close(torch.stack(found.answers()), expected, rtol=1e-4, atol=1e-5)
