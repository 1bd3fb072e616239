import pytest

from batchserve.urls import is_safe, is_url, shown


@pytest.mark.parametrize("source", ["https://a/b.pt", "http://a/b.pt", "s3://a/b", "file:///b.pt"])
def test_a_url(source):
    assert is_url(source)


@pytest.mark.parametrize(
    "source", ["model.pt", "torchvision:resnet18", "./a:b", "a:b", "/a//b.pt", "://a", "C:\\a"]
)
def test_no_url(source):
    assert not is_url(source)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/model.pt",
        "http://localhost:8000/model.pt",
        "http://127.0.0.1/model.pt",
        "http://127.9.9.9/model.pt",
        "http://[::1]:80/model.pt",
    ],
)
def test_nobody_can_change_what_comes_from_there(url):
    assert is_safe(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/model.pt",
        "http://localhost.example.org/model.pt",
        "http://127.0.0.1.example.org/model.pt",
        "http://127.0.0.1@example.org/model.pt",
        "http://192.168.0.1/model.pt",
        "http://0.0.0.0/model.pt",
        "http:///model.pt",
        "https:///model.pt",
        "ftp://localhost/model.pt",
        "file:///model.pt",
    ],
)
def test_what_comes_from_elsewhere_is_not_safe(url):
    assert not is_safe(url)


@pytest.mark.parametrize("source", ["model.pt", "torchvision:resnet18", "/a@b/c?d.pt"])
def test_what_is_no_url_is_shown_as_it_is(source):
    assert shown(source) == source


def test_secrets_are_not_shown():
    url = "https://me:secret@example.org:8443/a/model.pt?X-Amz-Signature=secret#here"
    assert shown(url) == "https://example.org:8443/a/model.pt"
