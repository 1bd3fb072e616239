"""What a server says once it is there."""

import json
import shlex
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from batchserve.config import ServerConfig
from batchserve.greeting import greeting
from batchserve.tasks.image_classification import ImageClassification
from batchserve.tasks.tensor import TensorTask

TCP = ("0.0.0.0", 8000)


def version(task: Any, name: str = "m", kind: str = "tensor") -> Any:
    return SimpleNamespace(name=name, task=task, config=SimpleNamespace(task=kind))


def lines(*versions: Any, addresses=(TCP,), **server: Any) -> list[str]:
    return list(greeting(ServerConfig(**server), versions, addresses))


def body_of(command: str) -> Any:
    return json.loads(shlex.split(command)[-1])


def test_it_tells_where_and_with_what():
    first, _ = lines(version(TensorTask((2,))), workers=3, torch_threads=4, decode_threads=5)
    assert "on http://127.0.0.1:8000; workers: 3" in first
    assert "torch threads: 4, decoding threads: 5" in first


@pytest.mark.parametrize(
    ("address", "shown", "url"),
    [
        (("127.0.0.1", 80), "http://127.0.0.1:80", "http://127.0.0.1:80/predict"),
        (("::", 80, 0, 0), "http://[::1]:80", "http://[::1]:80/predict"),
        ("/run/a b.sock", "unix:/run/a b.sock", "http://localhost/predict"),
    ],
)
def test_the_address_is_one_that_curl_reaches(address, shown, url):
    first, command = lines(version(TensorTask((2,))), addresses=[address])
    assert f" on {shown};" in first
    assert url in shlex.split(command)
    if isinstance(address, str):
        assert shlex.split(command)[3:5] == ["--unix-socket", address]


def test_what_the_server_asks_for_is_in_the_command():
    first, command = lines(
        version(TensorTask((2,))),
        tls={"cert": "/a b/cert.pem", "key": "key.pem"},
        api_keys=["a-key-of-somebody"],
    )
    assert " on https://127.0.0.1:8000;" in first
    words = shlex.split(command)
    assert words[3:7] == ["--cacert", "/a b/cert.pem", "-H", "X-API-Key: $KEY"]
    assert "https://127.0.0.1:8000/predict" in words
    assert "a-key-of-somebody" not in command


def test_a_small_tensor_is_in_the_command():
    task = TensorTask((2, 3), "int64")
    assert body_of(lines(version(task))[1]) == {"input": [[0, 0, 0], [0, 0, 0]]}


def test_a_large_tensor_is_made_by_the_command():
    task = TensorTask((3, 16, 16))
    program = shlex.split(lines(version(task))[1].removeprefix("try m: python3 "))[1]
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert torch.tensor(json.loads(printed.stdout)["input"]).shape == (3, 16, 16)


def test_an_image_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = version(ImageClassification.__new__(ImageClassification))
    assert lines(photos)[1] == "try m: curl -F file=@photo.jpg http://127.0.0.1:8000/predict"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/coffee.png").touch()
    assert "file=@photos/coffee.png" in lines(photos)[1]


def test_what_nobody_knows_is_in_the_docs():
    assert lines(version(TensorTask()))[1].endswith("as http://127.0.0.1:8000/docs says")


def test_each_model_has_its_path_once():
    task = TensorTask((1,))
    shown = lines(version(task, "a"), version(task, "a"), version(task, "b"))
    assert [line.split(":")[0] for line in shown[1:]] == ["try a", "try b"]
    assert "8000/predict " in shown[1]
    assert "8000/models/b/predict " in shown[2]
