from pathlib import Path

import pytest

from batchserve.errors import LoadError
from batchserve.loading.files import check_digest, check_file, digest_of

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, B.1


def test_a_file_that_is_there_passes(tmp_path: Path):
    (tmp_path / "model.pt").write_bytes(b"abc")
    check_file(tmp_path / "model.pt")


@pytest.mark.parametrize("near", ["modle.pt", "model.pth", "model2.pt"])
def test_a_file_that_is_not_there_is_answered_with_a_near_one(tmp_path: Path, near: str):
    (tmp_path / near).write_bytes(b"abc")
    (tmp_path / "photo.jpg").write_bytes(b"abc")
    with pytest.raises(LoadError) as caught:
        check_file(tmp_path / "model.pt")
    assert str(caught.value) == (
        f"there is no file {tmp_path / 'model.pt'}; a path is relative to the config's folder; "
        f"did you mean {near}?"
    )


@pytest.mark.parametrize("path", ["model.pt", "absent/model.pt"])
def test_a_file_without_near_ones_gets_no_hint(tmp_path: Path, path: str):
    with pytest.raises(LoadError, match=r"relative to the config's folder$"):
        check_file(tmp_path / path)


def test_a_folder_is_answered_with_what_is_in_it(tmp_path: Path):
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes(b"abc")
    with pytest.raises(LoadError) as caught:
        check_file(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is a folder; name the file in it that holds the model: config.json, "
        f"model.safetensors"
    )


def test_a_checksum_is_that_of_the_standard(tmp_path: Path):
    (tmp_path / "model.pt").write_bytes(b"abc")
    assert digest_of(tmp_path / "model.pt") == ABC
    check_digest(tmp_path / "model.pt", ABC, "model.pt")
    check_digest(tmp_path / "model.pt", None, "model.pt")


def test_another_checksum_is_refused_with_both(tmp_path: Path):
    (tmp_path / "model.pt").write_bytes(b"abc")
    with pytest.raises(LoadError) as caught:
        check_digest(tmp_path / "model.pt", "0" * 64, "the model")
    assert str(caught.value) == (
        f"the model is another file than was meant: its SHA-256 is {ABC}, and not sha256: "
        f"{'0' * 64}; correct that if this file is right"
    )
