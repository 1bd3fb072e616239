import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from batchserve.loading import load_module, place_module
from batchserve.loading.aotinductor import CHECK_INPUTS, AOTInductor, inputs_in
from batchserve.loading.program import Input
from tests.loading.models import convolved
from tests.loading.test_round_trip import assert_served

# On a busy machine the C++ compiler takes its time.
pytestmark = pytest.mark.timeout(300)
# What torch 2.15 writes for an input of (2 ≤ rows ≤ 64, 3, any length ≥ 2), and for tokens.
CHECKS = """
    int32_t arg4_1_expected_dtype = aoti_torch_dtype_float32();
        ss << "input_handles[0]: dim value is too small at 0, "
           << "expected it to be >= 2, " << "but got: "
        ss << "input_handles[0]: dim value is too large at 0, "
           << "expected to be <= 64, " << "but got: "
        ss << "input_handles[0]: unmatched dim value at 1, "
           << "expected: 3, " << "but got: " << arg4_1_size[1]
        ss << "input_handles[0]: dim value is too small at 2, "
           << "expected it to be >= 2, " << "but got: "
        ss << "input_handles[0]: unmatched stride value at 2, "
           << "expected: 1, " << "but got: " << arg4_1_stride[2]
    int32_t arg5_1_expected_dtype = aoti_torch_dtype_int64();
        ss << "input_handles[1]: unmatched dim value at 0, "
           << "expected: 4, " << "but got: " << arg5_1_size[0]
        ss << "input_handles[1]: unmatched stride value at 1, "
           << "expected: 1, " << "but got: " << arg5_1_stride[1]
"""


def test_compiled_code_tells_what_it_takes():
    assert inputs_in(CHECKS) == [
        Input(torch.float32, 2, 64, (3, -1)),
        Input(torch.int64, 4, 4, (-1,)),
    ]


def test_code_without_checks_tells_nothing():
    assert inputs_in("int main() {}") == []


@pytest.fixture
def placed(configure, package: Path) -> nn.Module:
    """The package, loaded and placed as the server does it."""
    (config,) = configure(source=str(package), trust=True, batching={"max_batch_size": None}).models
    return place_module(load_module(config), config, torch.device("cpu"))


def test_a_package_answers_as_the_model_that_it_was_made_of(placed, package):
    assert placed.program_inputs[0].item_shape == (3, 8, 8)
    for size in (1, 2, 7):
        batch = torch.randn(size, 3, 8, 8)
        with torch.inference_mode():
            torch.testing.assert_close(placed(batch), convolved()(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(2, 3, 9, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16),
        torch.zeros(2, 3, 8, 7),
        torch.zeros(2, 3, 8, 16)[..., ::2],
    ],
    ids=["taller", "bf16", "narrower", "strided"],
)
def test_memory_that_is_not_the_batchs_is_never_read(placed, batch, capfd):
    # Compiled code trusts its caller, unless it is told otherwise.
    if not batch.is_contiguous():
        torch.testing.assert_close(placed(batch), placed(batch.contiguous()))
        return
    with pytest.raises(RuntimeError) as caught:
        placed(batch)
    # Older versions of torch say why on stderr only.
    assert "unmatched" in str(caught.value) + capfd.readouterr().err


async def test_a_package_is_served(serve, configure, package):
    await assert_served(serve, configure, {"source": str(package), "trust": True})


def test_machine_code_needs_trust(refused, package):
    assert refused(source=str(package)) == (
        f"model tiny: {package} is an AOTInductor package, which is machine code: it can run any "
        f"code that the file holds. If you trust its origin, set trust: true"
    )


def test_a_package_may_be_called_anything(configure, package, tmp_path):
    shutil.copy(package, tmp_path / "model.bin")
    (config,) = configure(source="model.bin", trust=True, batching={}).models
    placed = place_module(load_module(config), config, torch.device("cpu"))
    batch = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(placed(batch), convolved()(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"precision": "bf16"}, "precision: bf16 is not that of the file: "),
        ({"compile": True}, "compile: true does not go with a program"),
        ({"quantize": "int8-weight-only"}, "quantize: int8-weight-only does not go with a program"),
    ],
)
def test_what_a_package_cannot_become_is_refused(configure, package, keys, message):
    (config,) = configure(source=str(package), trust=True, batching={}, **keys).models
    with pytest.raises(Exception, match=message):
        place_module(load_module(config), config, torch.device("cpu"))


def test_another_device_is_refused_with_both_ways_out(package: Path):
    program = AOTInductor(package, "model", "cuda", [])
    with pytest.raises(Exception, match="was compiled for cuda, and the device is cpu; compile it"):
        program.place(torch.device("cpu"))


def _rewritten(package: Path, path: Path, change: Any) -> Path:
    """Copy a package, with each member's name and content changed."""
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            for name, content in change(info.filename, old.read(info)):
                new.writestr(name, content)
    return path


def test_a_damaged_package_is_refused(configure, package, tmp_path):
    def without_code(name: str, content: bytes) -> Any:
        return [(name, b"" if name.endswith(".so") else content)]

    path = _rewritten(package, tmp_path / "model.pt2", without_code)
    (config,) = configure(source=str(path), trust=True, batching={}).models
    with pytest.raises(Exception, match="cannot be loaded as an AOTInductor package: "):
        place_module(load_module(config), config, torch.device("cpu"))


def test_a_package_of_several_models_is_refused_with_their_names(refused, package, tmp_path):
    def twice(name: str, content: bytes) -> Any:
        folder = "data/aotinductor/"
        return [(name, content), (name.replace(f"{folder}model", f"{folder}other"), content)][
            : 2 if folder in name else 1
        ]

    path = _rewritten(package, tmp_path / "model.pt2", twice)
    assert refused(source=str(path), trust=True, batching={}) == (
        f"model tiny: {path} holds several models: model, other; package each by itself"
    )


def test_inputs_are_checked_from_the_first_package_on(placed):
    assert os.environ[CHECK_INPUTS] == "1"
