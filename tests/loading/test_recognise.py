import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn
from torchvision.models import squeezenet1_1

from batchserve.errors import LoadError
from batchserve.loading.recognise import Format, recognise
from tests.loading.models import Small, torchscript

Write = Callable[[Path], object]


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return file.getvalue()


def _state_dict(path: Path) -> None:
    torch.save(Small().state_dict(), path)


def _state_dict_before_zip(path: Path) -> None:
    torch.save(Small().state_dict(), path, _use_new_zipfile_serialization=False)


def _module(path: Path) -> None:
    torch.save(Small(), path)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Small()))


def _safetensors(path: Path) -> None:
    path.write_bytes(save(Small().state_dict(), metadata={"format": "pt"}))


def _empty_safetensors(path: Path) -> None:
    path.write_bytes(save({}))


def _scripted(path: Path) -> None:
    torch.jit.script(Small()).save(path)


def _frozen(path: Path) -> None:
    torch.jit.save(torch.jit.freeze(torch.jit.script(Small().eval())), path)


def _exported(path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(torch.export.export(Small().eval(), (torch.zeros(2, 3),)), file)


def _exported_by_torch_2_5(path: Path) -> None:
    # https://github.com/pytorch/pytorch/blob/v2.5.0/torch/export/__init__.py
    names = ("serialized_exported_program.json", "serialized_state_dict.pt", "version")
    path.write_bytes(zipped(*names))


def _compiled(path: Path) -> None:
    names = ("model/data/aotinductor/model/c1.wrapper.so", "model/archive_format", "model/version")
    path.write_bytes(zipped(*names))


def _project(path: Path) -> None:
    path.write_bytes(zipped("model.py", "data/weights.pt"))


def _wrapped_project(path: Path) -> None:
    path.write_bytes(zipped("flowers/model.py", "flowers/data.pkl"))


KNOWN = {
    _state_dict: Format.TORCH,
    _state_dict_before_zip: Format.TORCH,
    _module: Format.TORCH,
    _pickle: Format.PICKLE,
    _safetensors: Format.SAFETENSORS,
    _empty_safetensors: Format.SAFETENSORS,
    _scripted: Format.TORCHSCRIPT,
    _frozen: Format.TORCHSCRIPT,
    _exported: Format.EXPORTED,
    _exported_by_torch_2_5: Format.EXPORTED,
    _compiled: Format.AOTINDUCTOR,
    _project: Format.PROJECT,
    _wrapped_project: Format.PROJECT,
}


@torchscript
@pytest.mark.parametrize("name", ["model", "model.pt", "model.safetensors", "model.zip"])
@pytest.mark.parametrize(
    ("write", "known"), KNOWN.items(), ids=[write.__name__.lstrip("_") for write in KNOWN]
)
def test_a_format_is_known_whatever_the_file_is_called(
    tmp_path: Path, write: Write, known: Format, name: str
):
    write(tmp_path / name)
    assert recognise(tmp_path / name) is known


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.zeros(3))
    return file.getvalue()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
# How files of these kinds begin.
OTHERS = {
    "empty": (b"", "is empty; write or fetch it again"),
    "lfs": (LFS, "is a pointer of Git LFS in place of the file; run git lfs pull"),
    "html": (b"<!DOCTYPE html>\n<title>Log in</title>", "is a web page in place of the file"),
    "html-later": (b"\n  <html lang='en'>", "is a web page in place of the file"),
    "s3-error": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page in place of"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xd6\x01", "is an ONNX model; save the model"),
    "onnx-of-keras": (b"\x08\x09\x12\x08tf2onnx", "is an ONNX model; save the model"),
    "savedmodel": (b"\x08\x01\x12\xc4\x9d\x06\n\xa3", "is a TensorFlow SavedModel; save the model"),
    "tflite": (b"\x1c\x00\x00\x00TFL3\x14\x00", "is a TensorFlow Lite model; save the model"),
    "executorch": (b"\x1c\x00\x00\x00ET12\x14\x00", "is an ExecuTorch program; save it with"),
    "keras-h5": (b"\x89HDF\r\n\x1a\n\x00", "is an HDF5 file, as Keras writes; save the model"),
    "keras": (zipped("config.json", "model.weights.h5"), "is a Keras model; save the model"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "is a GGUF file, for llama.cpp; take the original"),
    "npy": (_npy(), "is a NumPy array; put the arrays into a state_dict"),
    "npz": (_npz(), "is a zip with neither a model of torch's nor Python files in it, but weight"),
    "mar": (zipped("MAR-INF/MANIFEST.json", "model.py"), "is a TorchServe archive; unpack it"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "is compressed with gzip; unpack it"),
    "tar": (b"model.pt".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive; unpack it"),
    "photos": (zipped("coffee.png", "tea.png"), "in it, but coffee.png, tea.png; unpack it"),
    "nothing": (zipped(), "in it, but nothing; unpack it"),
    "text": (b"the weights, honestly\n", "it is text, and begins with 'the weights, honestly"),
    "yaml": ("grün: ja\n".encode() * 99, "it is text, and begins with 'grün: ja"),
    "bytes": (bytes(range(1, 256)), "it begins with the bytes 01 02 03 04 05 06 07 08; known are"),
    "one byte": (b"\x80", "it begins with the bytes 80; known are a file of torch.save, a pickle"),
}


@pytest.mark.parametrize(("content", "message"), OTHERS.values(), ids=OTHERS)
def test_what_cannot_be_served_is_called_what_it_is(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(LoadError) as caught:
        recognise(path)
    assert str(caught.value).startswith(f"{path} ")
    assert message in str(caught.value)
    # It would be no help.
    assert "trust" not in str(caught.value)


@pytest.mark.parametrize(
    "write", [_state_dict, _project, _exported], ids=lambda write: write.__name__
)
@pytest.mark.parametrize("lost", [1, 30])
def test_a_zip_that_is_cut_off_is_called_that(tmp_path: Path, write: Write, lost: int):
    path = tmp_path / "model.pt"
    write(path)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(LoadError, match="is cut off: it begins as a zip"):
        recognise(path)


@pytest.mark.parametrize("kept", [20, -1, -9])
def test_safetensors_that_are_cut_off_are_called_that(tmp_path: Path, kept: int):
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(nn.Linear(3, 2).state_dict())[:kept])
    with pytest.raises(LoadError, match="is a safetensors file that is cut off"):
        recognise(path)


@pytest.mark.parametrize(
    "header", [b"{nonsense", b'{"a": 1}', b'{"a": {"data_offsets": 3}}', b"{}x"]
)
def test_safetensors_with_a_damaged_header_are_called_that(tmp_path: Path, header: bytes):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(LoadError, match="but has no valid header"):
        recognise(path)


def test_json_in_the_ninth_byte_makes_no_safetensors(tmp_path: Path):
    path = tmp_path / "model.json"
    path.write_text("weights:{}")
    with pytest.raises(LoadError, match=r"it is text, and begins with 'weights:\{\}'"):
        recognise(path)


def test_a_large_file_is_not_read_as_a_whole(tmp_path: Path):
    path = tmp_path / "squeezenet.pt"
    torch.save(squeezenet1_1().state_dict(), path)
    with path.open("ab") as file:
        file.truncate(2**40)  # sparse; longer than any memory
    with pytest.raises(LoadError, match="is cut off"):
        recognise(path)
