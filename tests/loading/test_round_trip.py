"""Each format is served, from its file to the answer over HTTP, with the model's own answers."""

import asyncio
import hashlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from batchserve.loading import load_module, place_module
from tests.loading.models import convolved, torchscript
from tests.loading.served import Site

Saved = dict[str, Any]
ARCHITECTURE = "tests.loading.models:Convolved"
TRUSTED = {"trust": True}


def _state_dict(module: nn.Module, folder: Path) -> Saved:
    torch.save(module.state_dict(), folder / "model.pt")
    return {"source": "model.pt", "architecture": ARCHITECTURE}


def _state_dict_before_zip(module: nn.Module, folder: Path) -> Saved:
    path = folder / "model.pth"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    return {"source": "model.pth", "architecture": ARCHITECTURE}


def _checkpoint_of_data_parallel(module: nn.Module, folder: Path) -> Saved:
    torch.save({"state_dict": nn.DataParallel(module).state_dict()}, folder / "model.ckpt")
    return {"source": "model.ckpt", "architecture": ARCHITECTURE}


def _safetensors(module: nn.Module, folder: Path) -> Saved:
    save_file(module.state_dict(), folder / "model.safetensors")
    return {"source": "model.safetensors", "architecture": ARCHITECTURE}


def _scripted(module: nn.Module, folder: Path) -> Saved:
    torch.jit.script(module).save(folder / "model.pt")
    return {"source": "model.pt"}


def _traced(module: nn.Module, folder: Path) -> Saved:
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 8, 8)), folder / "model.pt")
    return {"source": "model.pt"}


def _frozen(module: nn.Module, folder: Path) -> Saved:
    torch.jit.save(torch.jit.freeze(torch.jit.script(module)), folder / "model.pt")
    return {"source": "model.pt"}


def _exported(module: nn.Module, folder: Path) -> Saved:
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=sizes)
    torch.export.save(program, folder / "model.pt2")
    return {"source": "model.pt2", **TRUSTED}


def _exported_for_one_size(module: nn.Module, folder: Path) -> Saved:
    program = torch.export.export(module, (torch.zeros(4, 3, 8, 8),))
    torch.export.save(program, folder / "model.pt2")
    return {"source": "model.pt2", **TRUSTED}


def _pickled(module: nn.Module, folder: Path) -> Saved:
    torch.save(module, folder / "model.pt")
    return {"source": "model.pt", **TRUSTED}


def _pickled_plainly(module: nn.Module, folder: Path) -> Saved:
    (folder / "model.pkl").write_bytes(pickle.dumps(module))
    return {"source": "model.pkl", **TRUSTED}


def _dilled(module: nn.Module, folder: Path) -> Saved:
    torch.save(module, folder / "model.pt", pickle_module=dill)
    return {"source": "model.pt", **TRUSTED}


MODEL_PY = """
from pathlib import Path
import torch
from helpers import architecture

def build():
    module = architecture()
    module.load_state_dict(torch.load(Path(__file__).parent / "data" / "weights.pt"))
    return module
"""
HELPERS_PY = """
def architecture():
    from tests.loading.models import Convolved
    return Convolved()
"""


def _project(module: nn.Module, folder: Path) -> Saved:
    torch.save(module.state_dict(), folder / "weights.pt")
    with zipfile.ZipFile(folder / "project.zip", "w") as archive:
        archive.writestr("flowers/model.py", MODEL_PY)
        archive.writestr("flowers/helpers.py", HELPERS_PY)
        archive.write(folder / "weights.pt", "flowers/data/weights.pt")
    return {"source": "project.zip", "entry": "model:build"}


def _callable(module: nn.Module, folder: Path) -> Saved:
    return {"source": "tests.loading.models:convolved"}


FORMATS = [
    _state_dict,
    _state_dict_before_zip,
    _checkpoint_of_data_parallel,
    _safetensors,
    _scripted,
    _traced,
    _frozen,
    _exported,
    _exported_for_one_size,
    _pickled,
    _pickled_plainly,
    _dilled,
    _project,
    _callable,
]


async def assert_served(serve: Any, configure: Any, described: Saved) -> None:
    described = {"input_shape": [3, 8, 8], "batching": {"max_batch_size": 4}, **described}
    expected = convolved()
    batch = torch.randn(4, 3, 8, 8)
    (config,) = configure(**described).models
    module = await asyncio.to_thread(load_module, config)
    placed = await asyncio.to_thread(place_module, module, config, torch.device("cpu"))
    with torch.inference_mode():
        answers = expected(batch)
        torch.testing.assert_close(placed(batch), answers, rtol=0, atol=1e-5)
    client = await serve(**described)
    response = await client.post("/predict", json={"inputs": batch.tolist()})
    assert response.status == 200, await response.text()
    outputs = torch.tensor((await response.json())["outputs"])
    torch.testing.assert_close(outputs, answers, rtol=0, atol=1e-5)


@torchscript
@pytest.mark.parametrize("save", FORMATS, ids=lambda save: save.__name__.strip("_"))
async def test_a_format_is_served(
    serve, configure, tmp_path, cache, save: Callable[[nn.Module, Path], Saved]
):
    await assert_served(serve, configure, save(convolved(), tmp_path))


@pytest.mark.parametrize("save", [_safetensors, _project], ids=["weights", "project"])
async def test_a_url_is_served(serve, configure, tmp_path, cache, site: Site, save):
    described = save(convolved(), tmp_path)
    content = (tmp_path / described["source"]).read_bytes()
    described["source"] = site.put(described["source"], content)
    described["sha256"] = hashlib.sha256(content).hexdigest()
    await assert_served(serve, configure, described)
    assert len(site.requests) == 1
