"""torch.compile, from the config to the answers: all before ready, and from the cache next time."""

import asyncio
import gc
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.codecache import PyCodeCache

from batchserve.batch import Terms
from batchserve.loading import Compiled
from batchserve.loading.compiled import compiled
from batchserve.repository import ModelRepository, State
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler (g++)"),
    # torch's compiler warns of its own parts.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(300),
]

AS_IT_IS: list[int] = []  # sizes of the batches that were not run by compiled code


class Net(nn.Module):
    """An image of 3 × 8 × 8 to two scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, batch: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            AS_IT_IS.append(len(batch))
        out: Tensor = self.fc(self.norm(self.conv(batch)).relu().mean(dim=(2, 3)))
        return out


def one() -> nn.Module:
    torch.manual_seed(1)
    return Net()


def other() -> nn.Module:
    torch.manual_seed(2)
    return Net()


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("cache")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, cache: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "what torch has set itself")
    monkeypatch.setattr("batchserve.loading.compiled.STATED", None)


async def answers(repository: ModelRepository, name: str, items: list[Tensor]) -> Tensor:
    batcher = repository.find(name).batcher
    by_s = batcher.clock() + 60
    with batcher.arrival(Terms(by_s, by_s)) as arrival:
        arrival.reserve(len(items))
        return torch.stack([await item.future for item in arrival.submit(items)])


def code_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.so")}


def described(name: str, **changes) -> dict[str, Any]:
    return {
        "name": name,
        "source": f"tests.repository.test_compiling:{name}",
        "input_shape": [3, 8, 8],
        "compile": True,
        "channels_last": False,
        "device": "cpu",
        "batching": {"max_batch_size": 4},
        **changes,
    }


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.03)])
async def test_two_models_of_one_kind_are_compiled_before_ready_and_each_keeps_its_weights(
    configure, caplog, monkeypatch, cache: Path, precision, tolerance
):
    # However much faster it is on this machine.
    monkeypatch.setattr("batchserve.runners.small_batches.WORTH", -1e9)
    changes = {"precision": precision}
    models = (
        configure(**described("one", **changes)).models
        + configure(**described("other", **changes)).models
    )
    repository = ModelRepository(models, threads=1)
    with caplog.at_level("INFO"):
        await repository.load()
    assert "one:1 compiling for each batch size of the warm-up" in caplog.text
    assert caplog.text.count("compiled and tried in") == 6
    assert caplog.text.count("code of their own for small batches: 2 ") == 2
    assert {version.state for version in repository.versions} == {State.READY}

    AS_IT_IS.clear()
    items = [torch.randn(3, 8, 8) for _ in range(4)]
    for name, make in (("one", one), ("other", other)):
        for size in (1, 2, 3, 4):
            found = await answers(repository, name, items[:size])
            with torch.inference_mode():
                expected = make().eval()(torch.stack(items[:size]))
            AS_IT_IS.remove(size)
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert AS_IT_IS == []
    await repository.close()
    made = await asyncio.to_thread(code_in, cache)
    assert made

    # A new process would begin as after this.
    torch._dynamo.reset()
    again = ModelRepository(models[:1], threads=1)
    await again.load()
    await again.close()
    assert await asyncio.to_thread(code_in, cache) == made


async def test_autotune_tries_what_an_earlier_start_has_compiled(configure, caplog, monkeypatch):
    first = ModelRepository(configure(**described("one")).models, threads=1)
    await first.load()
    await first.close()
    torch._dynamo.reset()
    # However much faster it is on this machine.
    monkeypatch.setattr("batchserve.runners.autotune.WORTH", -1e9)
    models = configure(**described("one", compile=False, autotune=True)).models
    again = ModelRepository(models, threads=1)
    with caplog.at_level("INFO"):
        await again.load()
    assert "one:1 autotune: compiled: that is" in caplog.text
    AS_IT_IS.clear()
    items = [torch.randn(3, 8, 8) for _ in range(3)]
    found = await answers(again, "one", items)
    assert AS_IT_IS == []
    with torch.inference_mode():
        expected = one().eval()(torch.stack(items))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    await again.close()


def compile_and_leave() -> None:
    model = compiled(one().eval().to(torch.bfloat16), torch.device("cpu"), torch.bfloat16)
    weights = weakref.ref(model.module.get_parameter("conv.weight"))
    model.compile_what_comes(fixed_shape=True)
    model.compile_apart(2)
    with torch.inference_mode():
        for rows in (4, 2):
            model(torch.randn(rows, 3, 8, 8, dtype=torch.bfloat16))
    model.settle()
    made = {module.__name__ for module in PyCodeCache.modules}
    assert made <= sys.modules.keys()
    del model
    gc.collect()  # the model, upon which torch lets go of the graphs
    gc.collect()
    assert weights() is None
    assert PyCodeCache.modules == []
    assert made.isdisjoint(sys.modules)


def test_what_was_compiled_goes_with_its_model(cache: Path):
    # Not in this process, in which pytest keeps what torch logs.
    work = "from tests.repository.test_compiling import compile_and_leave; compile_and_leave()"
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache / "apart")}
    subprocess.run([sys.executable, "-c", work], cwd=ROOT, env=environment, check=True)


def test_what_is_settled_compiles_nothing_new():
    model = Compiled(one().eval())
    batch = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        model.settle()
        AS_IT_IS.clear()
        model(batch)
    assert AS_IT_IS == [2]
