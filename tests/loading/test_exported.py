import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from batchserve.config import Config
from batchserve.loading import largest_batch, load_module, place_module
from batchserve.loading.exported import Exported
from tests.loading.models import Evil, Small, assert_same


class Sentence(nn.Module):
    """Tokens and a mask to a vector, as a tuple with a length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return (self.embedding(ids) * mask.unsqueeze(-1)).sum(dim=1), mask.sum(dim=1)


def export(module: nn.Module, path: Path, rows: int = 2, batch: Any = None) -> None:
    """Write a program for batches of that many rows, or of any size of that dimension."""
    shapes = None if batch is None else ({0: batch},)
    with path.open("wb") as file:
        torch.export.save(
            torch.export.export(module, (torch.randn(rows, 3),), dynamic_shapes=shapes), file
        )


def test_a_program_without_trust_is_refused_before_anything_runs(refused, tmp_path, trained):
    export(trained, tmp_path / "model.pt2")
    assert refused(source="model.pt2") == (
        f"model tiny: {tmp_path / 'model.pt2'} is a program of torch.export, whose loading "
        f"unpickles: it can run any code that the file holds. If you trust its origin, set "
        f"trust: true"
    )


def test_a_program_can_indeed_run_code(refused, tmp_path, trained):
    path, victim, evil = tmp_path / "model.pt2", tmp_path / "victim", io.BytesIO()
    export(trained, path)
    torch.save((Evil(victim), {}), evil)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            sample = name.endswith("sample_inputs/model.pt")
            archive.writestr(name, evil.getvalue() if sample else content)
    refused(source="model.pt2")
    assert not victim.exists()
    refused(source="model.pt2", trust=True)
    assert victim.exists()


@pytest.mark.parametrize("name", ["model.pt2", "model.pt", "model"])
def test_a_program_for_batches_of_any_size(load, tmp_path, trained, name):
    export(trained, tmp_path / name, batch=Dim("batch"))
    loaded = load(source=name, trust=True)
    assert largest_batch(loaded) is None
    assert_same(loaded, trained)
    torch.testing.assert_close(loaded(torch.ones(1, 3)), trained(torch.ones(1, 3)))


@pytest.mark.parametrize("named", [False, True])
def test_a_program_with_several_inputs_and_outputs(load, tmp_path, named):
    original, dynamic = Sentence().eval(), {0: Dim("batch", min=2, max=8), 1: Dim("length")}
    ids, mask = torch.randint(10, (3, 5)), torch.ones(3, 5)
    args, kwargs = ((), {"ids": ids, "mask": mask}) if named else ((ids, mask), {})
    shapes = {"ids": dynamic, "mask": dynamic}
    program = torch.export.export(original, args, kwargs, dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = load(source="model.pt2", trust=True)
    with pytest.raises(TypeError, match="it takes ids, mask, and was given 1 by place, masks"):
        loaded(ids, masks=mask)
    with pytest.raises(TypeError, match="it takes ids, mask, and was given 3 by place"):
        loaded(ids, mask, mask)
    assert (loaded.least, loaded.largest_batch) == (2, 8)
    assert [taken.item_shape for taken in loaded.program_inputs] == [(-1,), (-1,)]
    ids, mask = torch.randint(10, (1, 7)), torch.ones(1, 7)
    for answer in (loaded(ids, mask), loaded(ids=ids, mask=mask)):
        torch.testing.assert_close(answer, original(ids, mask))


@pytest.mark.parametrize("rows", [1, 4])
def test_a_program_for_one_size_pads_smaller_batches_to_it(load, tmp_path, trained, rows):
    export(trained, tmp_path / "model.pt2", rows)
    loaded = load(source="model.pt2", trust=True, batching={})
    assert (loaded.least, largest_batch(loaded)) == (rows, rows)
    for size in range(1, rows + 1):
        batch = torch.randn(size, 3)
        torch.testing.assert_close(loaded(batch), trained(batch))


def test_a_stated_batch_that_is_larger_is_refused_with_the_fix(refused, tmp_path, trained):
    export(trained, tmp_path / "model.pt2", 2)
    assert refused(source="model.pt2", trust=True).startswith(
        "model tiny: batching.max_batch_size: 4 is more than 2, the largest batch that it was "
    )


@pytest.mark.parametrize(("rows", "batch"), [(1, None), (3, None), (3, Dim("batch", max=5))])
async def test_a_program_for_small_batches_is_served_in_such(serve, tmp_path, trained, rows, batch):
    export(trained, tmp_path / "model.pt2", rows, batch)
    client = await serve(
        source="model.pt2", trust=True, batching={"max_batch_size": None, "max_wait_ms": 50}
    )
    (model,) = (await (await client.get("/models")).json())["models"]
    assert model["max_batch_size"] <= (5 if batch else rows)
    inputs = torch.randn(13, 3)
    response = await client.post("/predict", json={"inputs": inputs.tolist()})
    outputs = torch.tensor((await response.json())["outputs"])
    torch.testing.assert_close(outputs, trained(inputs), rtol=0, atol=1e-5)


async def test_a_program_tells_what_an_input_looks_like(serve, tmp_path, trained):
    export(trained, tmp_path / "model.pt2", batch=Dim("batch"))
    client = await serve(source="model.pt2", trust=True)
    response = await client.post("/predict", json={"input": [1, 2, 3, 4]})
    assert response.status == 422
    assert "of shape [3]" in (await response.json())["error"]


async def test_a_program_of_tokens_tells_that_they_are_integers(serve, tmp_path):
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.embedding(ids).sum(dim=1)
            return out

    sizes = {0: Dim("batch"), 1: Dim("length")}
    program = torch.export.export(
        Tokens().eval(), (torch.zeros(2, 3, dtype=torch.long),), dynamic_shapes=(sizes,)
    )
    torch.export.save(program, tmp_path / "model.pt2")
    client = await serve(source="model.pt2", trust=True)
    assert (await client.post("/predict", json={"input": [1, 2, 3, 4, 5]})).status == 200
    assert (await client.post("/predict", json={"input": [0.5]})).status == 422


def test_training_mode_is_warned_of(load, tmp_path, trained, caplog):
    export(trained.train(), tmp_path / "model.pt2", batch=Dim("batch"))
    with caplog.at_level(logging.WARNING):
        load(source="model.pt2", trust=True)
    assert "was exported in training mode" in caplog.text


def test_evaluation_mode_is_not_warned_of(load, tmp_path, trained, caplog):
    export(trained, tmp_path / "model.pt2", batch=Dim("batch"))
    load(source="model.pt2", trust=True)
    assert "training" not in caplog.text


def test_a_damaged_program_is_refused(refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
    message = refused(source="model.pt2", trust=True)
    assert f"{tmp_path / 'model.pt2'} cannot be loaded as a program of torch.export: " in message
    assert f"torch here is {torch.__version__}" in message


def _placed(configure: Any, **model: Any) -> nn.Module:
    config: Config = configure(source="model.pt2", trust=True, **model)
    return place_module(load_module(config.models[0]), config.models[0], torch.device("cpu"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"precision": "bf16"}, "precision: bf16 is not that of the file: "),
        ({"compile": True}, "compile: true does not go with a program, whose graph is fixed"),
        ({"quantize": "int8-dynamic"}, "quantize: int8-dynamic does not go with a program"),
    ],
)
def test_what_a_program_cannot_become_is_refused(configure, tmp_path, trained, keys, message):
    export(trained, tmp_path / "model.pt2", batch=Dim("batch"))
    with pytest.raises(Exception, match=message):
        _placed(configure, **keys)


def test_a_program_in_bf16_is_served_in_bf16(configure, tmp_path):
    module = nn.Linear(3, 2).to(torch.bfloat16)
    program = torch.export.export(module, (torch.ones(2, 3, dtype=torch.bfloat16),))
    torch.export.save(program, tmp_path / "model.pt2")
    placed = _placed(configure, precision="bf16", batching={})
    assert placed(torch.ones(1, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(Exception, match="and these are bf16; set precision: bf16, or make it anew"):
        _placed(configure, batching={})


def test_a_program_is_moved_with_the_devices_in_its_graph(tmp_path):
    # There is a device for this everywhere: it computes nothing, and tells where it would.
    class Counts(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return batch + torch.arange(3, device=batch.device)

    program = torch.export.export(Counts(), (torch.zeros(2, 3),))
    exported = Exported(program)
    exported.place(torch.device("meta"))
    assert exported(torch.zeros(2, 3, device="meta")).device.type == "meta"


def test_small_is_the_same_program_before_and_after(tmp_path):
    # What every test here compares with.
    module = Small().eval()
    export(module, tmp_path / "model.pt2", batch=Dim("batch"))
    assert_same(torch.export.load(tmp_path / "model.pt2").module(), module)
