import io
import urllib.error
from email.message import Message
from typing import Any

import pytest
import torch

from tests.loading.models import Small


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
    assert refused(source="torchvision:squeezenet1_1", weights="absent.pth").startswith(
        f"model tiny: there is no file {tmp_path / 'absent.pth'}; "
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
