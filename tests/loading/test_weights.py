import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torchvision.models import squeezenet1_1

from tests.loading.models import (
    Tied,
    assert_same,
    has_a_part_named_module,
    normalised,
    torchscript,
)


def _as_it_is(module: nn.Module) -> Any:
    return module.state_dict()


def _as_a_dict(module: nn.Module) -> Any:
    return dict(module.state_dict())


def _wrapped(module: nn.Module) -> Any:
    return {"epoch": 3, "state_dict": module.state_dict(), "optimizer": {"lr": 0.1}}


def _wrapped_otherwise(module: nn.Module) -> Any:
    return {"model_state_dict": module.state_dict(), "loss": 0.5}


def _wrapped_as_model(module: nn.Module) -> Any:
    return {"model": module.state_dict(), "args": None}


def _wrapped_twice(module: nn.Module) -> Any:
    return {"model": {"state_dict": module.state_dict()}}


def _with_arguments(module: nn.Module) -> Any:
    return {
        "state_dict": module.state_dict(),
        "args": argparse.Namespace(lr=0.1, data=Path("/data")),
        "best": np.float64(0.93),
        "epoch": np.int64(3),
    }


def _compiled(module: nn.Module) -> Any:
    compiled: Any = torch.compile(module)
    return compiled.state_dict()


def _compiled_and_parallel(module: nn.Module) -> Any:
    compiled: Any = torch.compile(module)
    return nn.DataParallel(compiled).state_dict()


def _of_lightning(module: nn.Module) -> Any:
    held = {f"model.{name}": value for name, value in module.state_dict().items()}
    return {"state_dict": held, "hyper_parameters": {"lr": 0.1}}


def _parallel(module: nn.Module) -> Any:
    return nn.DataParallel(module).state_dict()


def _parallel_and_wrapped(module: nn.Module) -> Any:
    return {"state_dict": nn.DataParallel(module).state_dict(), "epoch": 3}


@pytest.mark.parametrize("suffix", ["pt", "pth"])
@pytest.mark.parametrize(
    "checkpoint",
    [
        _as_it_is,
        _as_a_dict,
        _wrapped,
        _wrapped_otherwise,
        _wrapped_as_model,
        _wrapped_twice,
        _with_arguments,
        _compiled,
        _compiled_and_parallel,
        _of_lightning,
        _parallel,
        _parallel_and_wrapped,
    ],
)
def test_weights_in_all_that_training_scripts_save(load, save, trained, checkpoint, suffix):
    source = save(f"model.{suffix}", checkpoint(trained))
    loaded = load(source=source, architecture="tests.loading.models:make")
    assert_same(loaded, trained)


def test_a_module_may_be_named_module(load, save):
    # Only where every name begins with "module." has DataParallel put it there.
    original = has_a_part_named_module()
    save("model.pt", original.state_dict())
    loaded = load(source="model.pt", architecture="tests.loading.models:has_a_part_named_module")
    assert_same(loaded, original)


def test_weights_in_the_format_before_zip(load, tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(load(source="old.pth", architecture="tests.loading.models:Small"), trained)


def test_weights_with_an_architecture_of_torchvision(load, save):
    original = squeezenet1_1().eval()
    save("squeezenet.pth", original.state_dict())
    loaded = load(source="squeezenet.pth", architecture="torchvision:squeezenet1_1")
    batch = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch), original(batch), rtol=0, atol=0)


def test_weights_without_an_architecture_are_refused_with_what_to_set(
    refused, save, tmp_path, trained
):
    save("model.pt", trained.state_dict())
    assert refused(source="model.pt") == (
        f"model tiny: {tmp_path / 'model.pt'} holds weights only; set architecture: to what they "
        f"belong in, as in torchvision:resnet18 or package.module:callable"
    )


def test_an_architecture_that_is_not_there_is_named(refused, save, trained):
    save("model.pt", trained.state_dict())
    message = refused(source="model.pt", architecture="tests.loading.models:mak")
    assert "tests.loading.models has no 'mak'; did you mean 'make'?" in message


def test_weights_that_do_not_fit_are_refused_with_the_names_on_both_sides(
    refused, save, tmp_path, trained
):
    held = dict(trained.state_dict())
    held["head.weight"] = held.pop("fc.weight")
    del held["norm.running_var"]
    save("model.pt", held)
    assert refused(source="model.pt", architecture="tests.loading.models:make") == (
        f"model tiny: the weights in {tmp_path / 'model.pt'} do not fit Small: "
        f"missing: fc.weight, norm.running_var; not known there: head.weight"
    )


def test_weights_that_lack_some_are_refused_though_none_is_too_many(refused, save, trained):
    held = dict(trained.state_dict())
    del held["fc.bias"]
    save("model.pt", held)
    message = refused(source="model.pt", architecture="tests.loading.models:make")
    assert message.endswith("missing: fc.bias; not known there: none")


def test_a_long_list_of_names_is_cut(refused, save):
    save("model.pt", nn.Linear(1, 1).state_dict())
    message = refused(source="model.pt", architecture="tests.loading.models:Wide")
    assert message.endswith(
        "missing: layers.0.weight, layers.0.bias, layers.1.weight, layers.1.bias, layers.2.weight "
        "and 3 more; not known there: weight, bias"
    )


def test_weights_of_other_shapes_are_refused_with_both(refused, save, tmp_path, trained):
    save("model.pt", trained.state_dict())
    message = refused(source="model.pt", architecture="tests.loading.models:Tiered")
    assert f"the weights in {tmp_path / 'model.pt'} have other shapes" in message
    assert "fc.weight has shape [2, 3] in the file and [2, 5] in Tiered;" in message


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        ([1, 2], "list"),
        ({"epoch": 3}, "dict"),
        ({}, "dict"),
        (torch.zeros(3), "Tensor"),
        ({"state_dict": 3}, "dict"),
    ],
)
def test_a_file_of_something_else_is_refused_with_what_it_holds(
    refused, save, tmp_path, held, kind
):
    save("model.pt", held)
    assert refused(source="model.pt", architecture="tests.loading.models:make") == (
        f"model tiny: {tmp_path / 'model.pt'} holds {kind}, not a state_dict"
    )


# safetensors


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_safetensors(load, tmp_path, trained, name):
    save_file(trained.state_dict(), tmp_path / name)
    assert_same(load(source=name, architecture="tests.loading.models:make"), trained)


def test_safetensors_as_weights_of_a_callable(load, tmp_path, trained):
    save_file(trained.state_dict(), tmp_path / "weights")
    assert_same(load(source="tests.loading.models:make", weights="weights"), trained)


def test_tensors_that_two_layers_share_are_in_safetensors_once(load, tmp_path):
    torch.manual_seed(7)
    original = Tied().eval()
    save_model(original, str(tmp_path / "model.safetensors"))
    loaded = load(source="model.safetensors", architecture="tests.loading.models:Tied")
    assert_same(loaded, original)


def test_safetensors_without_an_architecture_are_told_what_to_set(refused, tmp_path, trained):
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    assert "holds weights only; set architecture:" in refused(source="model.safetensors")


def test_damaged_safetensors_are_refused(refused, tmp_path):
    header = b'{"fc.weight": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}'
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "model.safetensors").write_bytes(content)
    message = refused(source="model.safetensors", architecture="tests.loading.models:make")
    assert f"{tmp_path / 'model.safetensors'} cannot be loaded as safetensors: " in message


@torchscript
def test_weights_that_are_a_whole_model_are_refused(refused, tmp_path, trained):
    torch.jit.script(trained).save(tmp_path / "model.pt")
    assert refused(source="tests.loading.models:make", weights="model.pt") == (
        f"model tiny: {tmp_path / 'model.pt'} is a TorchScript file, which holds a whole model; "
        f"name it as source"
    )


def test_names_that_a_module_translates_itself(load, save):
    original = normalised()
    held = {
        name.replace("parametrizations.weight.original0", "weight_g"): value
        for name, value in original.state_dict().items()
    }
    held = {
        name.replace("parametrizations.weight.original1", "weight_v"): value
        for name, value in held.items()
    }
    assert "weight_v" in held
    save("model.pt", held)
    assert_same(load(source="model.pt", architecture="tests.loading.models:normalised"), original)


def test_a_prefix_that_leads_nowhere_is_not_taken_off(refused, save):
    save("model.pt", {"backbone.head.weight": torch.zeros(2, 3)})
    message = refused(source="model.pt", architecture="tests.loading.models:make")
    assert message.endswith("not known there: backbone.head.weight")
