"""What a file is, told by its content and never by its name."""

import json
import re
import zipfile
from enum import StrEnum
from pathlib import Path

from batchserve.errors import LoadError

# The first object that torch.save wrote before it wrote zip files.
LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
HEAD_BYTES = 512
# The parser of safetensors takes no longer header.
LONGEST_HEADER = 100_000_000
SHOWN = 40
PICKLE_PROTOCOLS = range(2, 6)


class Format(StrEnum):
    """What can be served, as a message names it."""

    TORCH = "a file of torch.save"
    PICKLE = "a pickle"
    SAFETENSORS = "a safetensors file"
    TORCHSCRIPT = "a TorchScript file"
    EXPORTED = "a program of torch.export"
    AOTINDUCTOR = "an AOTInductor package"
    PROJECT = "a zip of a project"


CONVERT = "save the model in PyTorch, as torch.save(model.state_dict(), …)"
UNPACK = "unpack it, and name the file that is in it"
# What others are, by where they begin how, and what to do with them.
OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", CONVERT),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel", CONVERT),
    (4, b"TFL3", "a TensorFlow Lite model", CONVERT),
    (4, b"ET", "an ExecuTorch program", "save it with torch.export.save instead"),
    (0, b"GGUF", "a GGUF file, for llama.cpp", "take the original weights in safetensors"),
    (0, b"\x93NUMPY", "a NumPy array", "put the arrays into a state_dict, and torch.save it"),
    (0, b"\x1f\x8b", "compressed with gzip", UNPACK),
    (0, b"BZh", "compressed with bzip2", UNPACK),
    (0, b"\xfd7zXZ\x00", "compressed with xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
)
# ONNX has no magic number: the field of its version, then one of the others of a ModelProto.
ONNX = re.compile(rb"\x08[\x02-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")
PAGE = re.compile(rb"\s*(<!doctype html|<html|<\?xml)", re.IGNORECASE)
LFS = b"version https://git-lfs.github.com/spec/"
IN_ZIPS: tuple[tuple[str, str, str], ...] = (
    ("MAR-INF/MANIFEST.json", "a TorchServe archive", UNPACK),
    ("model.weights.h5", "a Keras model", CONVERT),
    ("saved_model.pb", "a TensorFlow SavedModel", CONVERT),
)


def recognise(path: Path) -> Format:
    """Return what the file at a path is.

    Raises:
        LoadError: nothing that can be served; the message says what it is, and what to do.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise LoadError(f"{path} is empty; write or fetch it again")
    if head.startswith(b"PK"):
        return _in_zip(path)
    if head[0] == 0x80 and len(head) > 1 and head[1] in PICKLE_PROTOCOLS:  # noqa: PLR2004 - the opcode PROTO
        return Format.TORCH if LEGACY_MAGIC in head[:40] else Format.PICKLE
    if head[8:9] == b"{":
        return _safetensors(path)
    raise LoadError(f"{path} {_other(head)}")


def _in_zip(path: Path) -> Format:
    names = _members(path)
    # What torch writes lies in one folder, which is named after the file.
    inner = {name.partition("/")[2] for name in names} | set(names)
    if any(name.startswith("data/aotinductor/") for name in inner):
        return Format.AOTINDUCTOR
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return Format.EXPORTED
    if {"data.pkl", "version"} <= inner:
        return Format.TORCHSCRIPT if "constants.pkl" in inner else Format.TORCH
    for member, what, advice in IN_ZIPS:
        if member in inner:
            raise LoadError(f"{path} is {what}; {advice}")
    if any(name.endswith(".py") for name in names):
        return Format.PROJECT
    shown = ", ".join(sorted(names)[:5]) or "nothing"
    raise LoadError(
        f"{path} is a zip with neither a model of torch's nor Python files in it, but {shown}; "
        f"unpack it, and name the file that holds the model"
    )


def _members(path: Path) -> list[str]:
    """Return the files in a zip."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        # Otherwise it is the directory of another one that lies in it.
        if not members or min(info.header_offset for info in members) == 0:
            return [info.filename for info in members if not info.is_dir()]
    raise LoadError(
        f"{path} is cut off: it begins as a zip, as torch.save and others write, and lacks the "
        f"end; copy or fetch it again"
    )


def _safetensors(path: Path) -> Format:
    """Hold the header against the file: https://github.com/huggingface/safetensors#format."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            file.seek(0)
            raise LoadError(f"{path} {_other(file.read(HEAD_BYTES))}")
        header = file.read(length)
    cut_off = LoadError(f"{path} is a safetensors file that is cut off; copy or fetch it again")
    if len(header) < length:
        raise cut_off
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise LoadError(f"{path} begins as a safetensors file, but has no valid header") from None
    if path.stat().st_size < 8 + length + end:
        raise cut_off
    return Format.SAFETENSORS


def _other(head: bytes) -> str:
    """Return what else a file is that begins so, and what to do."""
    for offset, magic, what, advice in OTHERS:
        if head[offset:].startswith(magic):
            return f"is {what}; {advice}"
    if ONNX.match(head):
        return f"is an ONNX model; {CONVERT}"
    if head.startswith(LFS):
        return "is a pointer of Git LFS in place of the file; run git lfs pull"
    if PAGE.match(head):
        return (
            "is a web page in place of the file: whoever fetched it got a login or an error; open "
            "the address in a browser, and take the link of the file itself"
        )
    return f"is no model that is known here: {_beginning(head)}; known are {', '.join(Format)}"


def _beginning(head: bytes) -> str:
    try:
        # The last character may be cut.
        text = head.decode("utf-8", errors="strict" if len(head) < HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        text = ""
    if text and all(character.isprintable() or character in "\n\r\t" for character in text):
        return f"it is text, and begins with {text[:SHOWN]!r}"
    return f"it begins with the bytes {head[:8].hex(' ')}"
