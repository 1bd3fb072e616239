import io
import pickle
import re
import urllib.error
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, squeezenet1_1

from batchserve.config import ModelConfig
from batchserve.errors import LoadError
from batchserve.loading import load_module, pick_device, place_module

Load = Callable[..., nn.Module]
Refused = Callable[..., str]
Save = Callable[[str, Any], str]

# Deprecated upstream, yet what many have on disk.
torchscript = pytest.mark.filterwarnings("ignore:.torch.jit")


class Small(nn.Module):
    """Three numbers to two, with a layer that knows training from evaluation, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.9)

    def forward(self, batch: Tensor) -> Tensor:
        out: Tensor = self.drop(self.norm(self.fc(batch)))
        return out


class Wide(nn.Module):
    """More parameters than a message lists."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1, 1) for _ in range(4))


class Tiered(nn.Module):
    """Small with another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 2)
        self.norm = nn.BatchNorm1d(2)


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"import pathlib; pathlib.Path({str(self.path)!r}).mkdir()",)


SHARED = Small()
SEVEN = 7


def make() -> nn.Module:
    return Small()


def fails() -> nn.Module:
    raise RuntimeError("no such luck")


def refuses() -> nn.Module:
    raise LoadError("the licence is missing")


def needs_an_argument(classes: int) -> nn.Module:
    return nn.Linear(3, classes)


def has_a_part_named_module() -> nn.Module:
    made = nn.Sequential()
    made.module = nn.Linear(3, 3)
    made.head = nn.Linear(3, 2)
    return made


def gives_seven() -> int:
    return 7


@pytest.fixture
def load(configure) -> Load:
    """Return a function that loads the one model of a config with those keys."""

    def load(**model) -> nn.Module:
        return load_module(configure(**model).models[0])

    return load


@pytest.fixture
def refused(load: Load) -> Refused:
    """Return a function that does the same, and returns the message of its refusal."""

    def refused(**model) -> str:
        with pytest.raises(LoadError) as caught:
            load(**model)
        return str(caught.value)

    return refused


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes with torch.save beside the config."""

    def save(file: str, held: Any) -> str:
        torch.save(held, tmp_path / file)
        return file

    return save


@pytest.fixture
def trained() -> Small:
    """A module whose weights, statistics and counter are no one's defaults."""
    torch.manual_seed(7)
    module = Small()
    for _ in range(3):
        module(torch.randn(8, 3))
    return module.eval()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return tmp_path / "hub"


def _assert_same(loaded: nn.Module, original: nn.Module) -> None:
    batch = torch.randn(4, 3)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch), original(batch), rtol=0, atol=0)


# Callables and instances


@pytest.mark.parametrize("name", ["make", "Small", "SHARED"])
def test_a_function_a_class_and_an_instance(load, name):
    assert isinstance(load(source=f"tests.test_loading:{name}"), Small)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SEVEN", "'tests.test_loading:SEVEN' is neither a torch.nn.Module nor callable"),
        ("gives_seven", "'tests.test_loading:gives_seven' returned int, not a torch.nn.Module"),
        (
            "fails",
            (
                "'tests.test_loading:fails' failed when it was called without arguments: "
                "RuntimeError: no such luck"
            ),
        ),
        ("refuses", "the licence is missing"),
        ("mak", "'tests.test_loading:mak': tests.test_loading has no 'mak'; did you mean 'make'?"),
    ],
)
def test_what_makes_no_module_is_refused_below_the_models_name(refused, name, reason):
    assert refused(source=f"tests.test_loading:{name}") == f"model tiny: {reason}"


def test_a_callable_that_needs_arguments_is_refused_with_which(refused):
    message = refused(source="tests.test_loading:needs_an_argument")
    assert "failed when it was called without arguments: TypeError: " in message
    assert "'classes'" in message


def test_the_cause_of_a_refusal_is_kept_for_the_log(load):
    with pytest.raises(LoadError) as caught:
        load(source="tests.test_loading:fails")
    assert isinstance(caught.value.__cause__, LoadError)
    assert isinstance(caught.value.__cause__.__cause__, RuntimeError)


def test_a_callable_with_weights(load, save, trained):
    weights = save("weights.pt", trained.state_dict())
    _assert_same(load(source="tests.test_loading:make", weights=weights), trained)


def test_two_versions_of_one_instance_keep_their_own_weights(load, save, trained):
    other = Small().eval()
    first = load(source="tests.test_loading:SHARED", weights=save("one.pt", trained.state_dict()))
    second = load(source="tests.test_loading:SHARED", weights=save("two.pt", other.state_dict()))
    _assert_same(second, other)
    _assert_same(first, trained)


# A state_dict and its architecture


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
        _parallel,
        _parallel_and_wrapped,
    ],
)
def test_weights_in_all_that_training_scripts_save(load, save, trained, checkpoint, suffix):
    source = save(f"model.{suffix}", checkpoint(trained))
    loaded = load(source=source, architecture="tests.test_loading:make")
    _assert_same(loaded, trained)


def test_a_module_may_be_named_module(load, save):
    # Only where every name begins with "module." has DataParallel put it there.
    original = has_a_part_named_module()
    save("model.pt", original.state_dict())
    loaded = load(source="model.pt", architecture="tests.test_loading:has_a_part_named_module")
    _assert_same(loaded, original)


def test_weights_in_the_format_before_zip(load, tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    _assert_same(load(source="old.pth", architecture="tests.test_loading:Small"), trained)


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
    message = refused(source="model.pt", architecture="tests.test_loading:mak")
    assert "tests.test_loading has no 'mak'; did you mean 'make'?" in message


def test_weights_that_do_not_fit_are_refused_with_the_names_on_both_sides(
    refused, save, tmp_path, trained
):
    held = dict(trained.state_dict())
    held["head.weight"] = held.pop("fc.weight")
    del held["norm.running_var"]
    save("model.pt", held)
    assert refused(source="model.pt", architecture="tests.test_loading:make") == (
        f"model tiny: the weights in {tmp_path / 'model.pt'} do not fit Small: "
        f"missing: fc.weight, norm.running_var; not known there: head.weight"
    )


def test_weights_that_lack_some_are_refused_though_none_is_too_many(refused, save, trained):
    held = dict(trained.state_dict())
    del held["fc.bias"]
    save("model.pt", held)
    message = refused(source="model.pt", architecture="tests.test_loading:make")
    assert message.endswith("missing: fc.bias; not known there: none")


def test_a_long_list_of_names_is_cut(refused, save):
    save("model.pt", nn.Linear(1, 1).state_dict())
    message = refused(source="model.pt", architecture="tests.test_loading:Wide")
    assert message.endswith(
        "missing: layers.0.weight, layers.0.bias, layers.1.weight, layers.1.bias, layers.2.weight "
        "and 3 more; not known there: weight, bias"
    )


def test_weights_of_other_shapes_are_refused_with_both(refused, save, tmp_path, trained):
    save("model.pt", trained.state_dict())
    message = refused(source="model.pt", architecture="tests.test_loading:Tiered")
    assert f"the weights in {tmp_path / 'model.pt'} have other shapes" in message
    assert "size mismatch for fc.weight" in message
    assert "[2, 3]" in message
    assert "[2, 5]" in message


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
    assert refused(source="model.pt", architecture="tests.test_loading:make") == (
        f"model tiny: {tmp_path / 'model.pt'} holds {kind}, not a state_dict"
    )


# Files that are not there, or are no models


def test_a_source_that_is_not_there_is_named_with_where_paths_begin(refused, tmp_path):
    assert refused(source="absent.pt") == (
        f"model tiny: there is no file {tmp_path / 'absent.pt'}; a path is relative to the "
        f"config's folder"
    )


def test_a_folder_is_no_source(refused, tmp_path):
    assert f"there is no file {tmp_path};" in refused(source=".")


def test_weights_that_are_not_there_are_named(refused, tmp_path):
    assert refused(source="tests.test_loading:make", weights="absent.pt") == (
        f"model tiny: weights: there is no file {tmp_path / 'absent.pt'}"
    )


NO_MODELS = {
    "text": b"These are the weights, honestly.\n" * 9,
    "lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n",
    "html": b"<!DOCTYPE html>\n<title>404</title>\n",
    "empty": b"",
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("content", NO_MODELS.values(), ids=NO_MODELS)
def test_a_file_that_torch_has_not_written_is_called_that(refused, tmp_path, content, trust):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert f"{path} is no file that torch.save has written" in refused(
        source="model.pt", trust=trust
    )


@pytest.mark.parametrize("content", NO_MODELS.values(), ids=NO_MODELS)
def test_setting_trust_is_no_advice_for_a_file_that_torch_has_not_written(
    refused, tmp_path, content
):
    (tmp_path / "model.pt").write_bytes(content)
    assert "set trust: true" not in refused(source="model.pt")


def test_a_truncated_file_is_refused(refused, save, tmp_path, trained):
    path = tmp_path / save("model.pt", trained.state_dict())
    path.write_bytes(path.read_bytes()[:-200])
    message = refused(source="model.pt", architecture="tests.test_loading:make")
    assert message.startswith(f"model tiny: {path} ")


def test_a_zip_of_something_else_is_refused(refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("photos/coffee.txt", "espresso")
    assert f"{tmp_path / 'model.pt'} cannot be loaded: " in refused(source="model.pt")


# TorchScript


@torchscript
@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_a_scripted_module(load, tmp_path, trained, suffix):
    torch.jit.script(trained).save(tmp_path / f"model.{suffix}")
    _assert_same(load(source=f"model.{suffix}"), trained)


@torchscript
def test_a_traced_module(load, tmp_path, trained):
    torch.jit.save(torch.jit.trace(trained, torch.zeros(1, 3)), tmp_path / "model.pt")
    _assert_same(load(source="model.pt"), trained)


@torchscript
def test_a_scripted_module_in_training_is_put_into_evaluation(load, tmp_path, trained):
    torch.jit.script(trained.train()).save(tmp_path / "model.pt")
    _assert_same(load(source="model.pt"), trained.eval())


@torchscript
def test_a_damaged_torchscript_file_is_refused(refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    assert f"{tmp_path / 'model.pt'} cannot be loaded as TorchScript: " in refused(
        source="model.pt"
    )


# Whole modules and trust


def test_a_whole_module_is_refused_with_both_ways_out(refused, save, tmp_path, trained):
    save("model.pt", trained)
    assert refused(source="model.pt") == (
        f"model tiny: {tmp_path / 'model.pt'} holds more than weights: a whole pickled module, "
        f"which runs whatever code the file contains when it is loaded. If you trust its origin, "
        f"set trust: true; better, save model.state_dict() and name its architecture"
    )


def test_a_whole_module_that_is_trusted(load, save, trained):
    save("model.pt", trained.train())
    loaded = load(source="model.pt", trust=True)
    assert isinstance(loaded, Small)
    _assert_same(loaded, trained.eval())


def test_trust_changes_nothing_for_weights(load, save, trained):
    save("model.pt", trained.state_dict())
    loaded = load(source="model.pt", architecture="tests.test_loading:make", trust=True)
    _assert_same(loaded, trained)


def test_weights_from_a_whole_module_that_is_trusted(load, save, trained):
    weights = save("model.pt", trained)
    loaded = load(source="tests.test_loading:make", weights=weights, trust=True)
    _assert_same(loaded, trained)


def _saved(evil: Evil, path: Path) -> None:
    torch.save(evil, path)


def _saved_before_zip(evil: Evil, path: Path) -> None:
    torch.save(evil, path, _use_new_zipfile_serialization=False)


def _saved_among_weights(evil: Evil, path: Path) -> None:
    torch.save({"state_dict": Small().state_dict(), "args": evil}, path)


def _pickled(evil: Evil, path: Path) -> None:
    path.write_bytes(pickle.dumps(evil))


EVIL_FILES = pytest.mark.parametrize(
    "write", [_saved, _saved_before_zip, _saved_among_weights, _pickled]
)


@EVIL_FILES
@pytest.mark.parametrize(
    "model",
    [
        {"source": "evil.pt"},
        {"source": "evil.pt", "architecture": "tests.test_loading:make"},
        {"source": "tests.test_loading:make", "weights": "evil.pt"},
        {"source": "torchvision:squeezenet1_1", "weights": "evil.pt"},
    ],
    ids=["source", "architecture", "weights", "torchvision"],
)
def test_a_file_that_is_not_trusted_runs_no_code(refused, tmp_path, write, model):
    victim = tmp_path / "victim"
    write(Evil(victim), tmp_path / "evil.pt")
    assert "evil.pt" in refused(**model)
    assert not victim.exists()


@pytest.mark.parametrize("write", [_saved, _saved_before_zip, _saved_among_weights])
def test_the_files_of_the_test_above_would_run_code_if_trusted(refused, tmp_path, write):
    victim = tmp_path / "victim"
    write(Evil(victim), tmp_path / "evil.pt")
    refused(source="evil.pt", trust=True)
    assert victim.is_dir()


# torchvision


def test_torchvision_with_random_weights(load):
    loaded = load(source="torchvision:squeezenet1_1", weights=None)
    with torch.inference_mode():
        assert loaded(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_torchvision_with_weights_from_a_file(load, save, suffix):
    original = load(source="torchvision:squeezenet1_1")
    weights = save(f"weights.{suffix}", original.state_dict())
    loaded = load(source="torchvision:squeezenet1_1", weights=weights)
    batch = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch), original(batch), rtol=0, atol=0)


def test_torchvision_with_a_file_that_is_not_there(refused, tmp_path):
    assert refused(source="torchvision:squeezenet1_1", weights="absent.pth") == (
        f"model tiny: weights: there is no file {tmp_path / 'absent.pth'}"
    )


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_torchvision_with_weights_that_are_downloaded(load, monkeypatch, hub, weights):
    original = load(source="torchvision:squeezenet1_1")
    asked: list[dict[str, Any]] = []

    def download(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        asked.append({"url": url, "progress": progress})
        torch.save(original.state_dict(), dst)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    loaded = load(source="torchvision:squeezenet1_1", weights=weights)
    assert asked == [
        {
            "url": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
            "progress": True,
        }
    ]
    batch = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch), original(batch), rtol=0, atol=0)


OFFLINE = [
    urllib.error.URLError("Name or service not known"),
    urllib.error.HTTPError("https://download.pytorch.org", 403, "Forbidden", None, None),  # type: ignore[arg-type]
    ConnectionResetError("Connection reset by peer"),
    TimeoutError("timed out"),
]


@pytest.mark.parametrize("error", OFFLINE, ids=lambda error: type(error).__name__)
def test_torchvision_without_a_network_tells_to_fetch_the_file(refused, monkeypatch, hub, error):
    def unreachable(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    assert refused(source="torchvision:squeezenet1_1", weights="DEFAULT") == (
        f"model tiny: the weights DEFAULT of torchvision's squeezenet1_1 could not be downloaded "
        f"from https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth ({error}); fetch "
        f"that file where there is a network and set weights: to its path"
    )


class _Proxy(io.BytesIO):
    """What a proxy answers instead of the file."""

    def info(self) -> Message:
        return Message()


def test_torchvision_behind_a_proxy_that_answers_something_else(refused, monkeypatch, hub):
    monkeypatch.setattr(torch.hub, "urlopen", lambda _request: _Proxy(b"<html>Log in</html>"))
    message = refused(source="torchvision:squeezenet1_1", weights="DEFAULT")
    assert "invalid hash value" in message
    assert "set weights: to its path" in message


def test_random_weights_need_no_network(load, monkeypatch, hub):
    # Models of segmentation and detection fetch a backbone unless they are told not to.
    def unreachable(*_args, **_kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    assert load(source="torchvision:lraspp_mobilenet_v3_large", weights=None)


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet81", "resnet18"), ("ResNet50", "resnet50"), ("mobilenet_v3", "mobilenet_v3_small")],
)
def test_a_name_that_torchvision_does_not_know_is_answered_with_near_ones(refused, name, near):
    message = refused(source=f"torchvision:{name}")
    assert message.startswith(f"model tiny: torchvision has no model {name!r}; did you mean ")
    assert near in message


@pytest.mark.parametrize("name", ["", "zzzzzzzz"])
def test_a_name_like_no_other_gets_no_hint(refused, name):
    assert refused(source=f"torchvision:{name}") == f"model tiny: torchvision has no model {name!r}"


def test_an_architecture_that_torchvision_does_not_know_is_answered_with_near_ones(refused, save):
    save("model.pt", Small().state_dict())
    message = refused(source="model.pt", architecture="torchvision:resnet81")
    assert "torchvision has no model 'resnet81'; did you mean resnet18" in message


def test_weights_that_torchvision_does_not_know_are_answered_with_what_it_has(refused):
    message = refused(source="torchvision:squeezenet1_1", weights="IMAGENET1K_V9")
    assert "IMAGENET1K_V9" in message
    assert "IMAGENET1K_V1" in message
    assert "DEFAULT" in message


# Evaluation mode, device and precision


@pytest.mark.parametrize("name", ["make", "Small", "SHARED"])
def test_what_is_loaded_is_in_evaluation_in_fp32_on_the_cpu(load, name):
    SHARED.train()
    module = load(source=f"tests.test_loading:{name}")
    assert not any(part.training for part in module.modules())
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}


def test_the_cpu_is_always_there():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, False, "cuda"), (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_best_that_is_there(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_a_gpu_that_is_there(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device(device) == torch.device(device)


@pytest.mark.parametrize(
    ("device", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("cuda:13", 2)]
)
def test_a_gpu_that_is_not_there_is_refused_with_how_many_are(monkeypatch, device, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(LoadError) as caught:
        pick_device(device)
    assert str(caught.value) == (
        f"device: {device} is not there; torch {torch.__version__} sees {count} CUDA devices; "
        f"device: auto takes what there is"
    )


def test_mps_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("mps") == torch.device("mps")


def test_mps_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(LoadError, match=re.escape("device: mps is not there; device: auto")):
        pick_device("mps")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_precision_of_weights_and_statistics_but_not_of_counters(configure, precision, dtype):
    config = configure(source="tests.test_loading:make", precision=precision).models[0]
    placed = place_module(load_module(config), config, torch.device("cpu"))
    held = placed.state_dict()
    assert held.pop("norm.num_batches_tracked").dtype == torch.int64
    assert {value.dtype for value in held.values()} == {dtype}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_answers_nearly_the_same(configure, save, trained, precision):
    weights = save("weights.pt", trained.state_dict())
    config = configure(
        source="tests.test_loading:make", weights=weights, precision=precision
    ).models[0]
    placed = place_module(load_module(config), config, torch.device("cpu"))
    batch = torch.randn(4, 3)
    with torch.inference_mode():
        answer = placed(batch.to(next(placed.parameters()).dtype))
        torch.testing.assert_close(answer.float(), trained(batch), rtol=0.05, atol=0.05)


@torchscript
def test_a_scripted_module_takes_a_precision_too(configure, tmp_path, trained):
    torch.jit.script(trained).save(tmp_path / "model.pt")
    config = configure(source="model.pt", precision="bf16").models[0]
    placed = place_module(load_module(config), config, torch.device("cpu"))
    with torch.inference_mode():
        assert placed(torch.zeros(1, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_module_is_not_compiled_unless_that_is_asked_for(configure, trained):
    config = configure(source="tests.test_loading:make").models[0]
    assert place_module(trained, config, torch.device("cpu")) is trained


def test_a_module_is_compiled_where_that_is_asked_for(configure, trained):
    config = configure(source="tests.test_loading:make", compile=True).models[0]
    compiled = place_module(trained, config, torch.device("cpu"))
    assert compiled is not trained
    assert compiled._orig_mod is trained


@pytest.mark.parametrize("source", ["architecture", "weights"])
def test_a_fine_tuned_model_of_torchvision_has_classes_of_its_own(tmp_path: Path, source):
    trained = resnet18(num_classes=5).eval()
    path = tmp_path / "flowers.pt"
    torch.save(trained.state_dict(), path)
    described = (
        {"source": str(path), "architecture": "torchvision:resnet18"}
        if source == "architecture"
        else {"source": "torchvision:resnet18", "weights": str(path)}
    )
    module = load_module(ModelConfig.model_validate({"name": "flowers", **described}))
    batch = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(module(batch), trained(batch))
