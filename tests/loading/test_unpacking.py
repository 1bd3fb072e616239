import hashlib
import logging
import shutil
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batchserve.errors import LoadError
from batchserve.loading import unpacking
from batchserve.loading.cache import cache_folder, only_one
from batchserve.loading.unpacking import unpacked
from tests.loading.projects import write_zip


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_a_zip_holds_lies_in_the_cache_under_its_checksum(tmp_path, cache):
    path = write_zip(tmp_path / "project.zip", model="N = 1", **{"data/labels.txt": "espresso"})
    folder = unpacked(path)
    assert folder == cache / "projects" / hashlib.sha256(path.read_bytes()).hexdigest()
    assert files_in(folder) == ["data/labels.txt", "model.py"]
    assert (folder / "data" / "labels.txt").read_text() == "espresso"
    assert stat.S_IMODE((cache / "projects").stat().st_mode) == 0o700


def test_what_is_there_is_not_unpacked_again(tmp_path, cache, monkeypatch):
    path = write_zip(tmp_path / "project.zip", model="N = 1")
    folder = unpacked(path)
    monkeypatch.setattr(unpacking, "_unpack", None)
    assert unpacked(path) == folder


def test_another_content_gets_another_folder(tmp_path, cache):
    one = unpacked(write_zip(tmp_path / "project.zip", model="N = 1"))
    two = unpacked(write_zip(tmp_path / "project.zip", model="N = 2"))
    assert one != two
    assert (one / "model.py").read_text() == "N = 1"


def test_litter_is_left_out(tmp_path, cache):
    litter = {"__MACOSX/._model.py": "", "p/.DS_Store": "", "p/__pycache__/model.pyc": ""}
    folder = unpacked(write_zip(tmp_path / "project.zip", **{"p/model.py": ""}, **litter))
    assert files_in(folder) == ["p/model.py"]


def _absolute(archive: zipfile.ZipFile) -> None:
    archive.writestr("/etc/passwd", "me")


def _above(archive: zipfile.ZipFile) -> None:
    archive.writestr("data/../../../evil.py", "me")


def _backslash(archive: zipfile.ZipFile) -> None:
    archive.writestr("..\\evil.py", "me")


def _link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("data")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc")


def _bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("data.bin", bytes(300 * 2**20))


def _crowd(archive: zipfile.ZipFile) -> None:
    for number in range(12):
        archive.writestr(f"{number}.txt", "")


ATTACKS = {
    _absolute: "holds '/etc/passwd', which lies outside of it",
    _above: "holds 'data/../../../evil.py', which lies outside of it",
    _backslash: r"holds '..\\evil.py', which lies outside of it",
    _link: "holds the link 'data'; put the file itself into it",
    _bomb: "bytes, which no project does",
    _crowd: "holds 13 files; more than 10 are no project",
}


@pytest.mark.parametrize(("attack", "message"), ATTACKS.items(), ids=lambda part: str(part)[:12])
def test_a_zip_that_does_harm_is_refused_and_leaves_nothing(
    tmp_path, cache, monkeypatch, attack: Callable[[zipfile.ZipFile], None], message: str
):
    monkeypatch.setattr(unpacking, "MOST_MEMBERS", 10)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.py", "N = 1")
        attack(archive)
    before = set(files_in(tmp_path)) - set(files_in(cache))
    with pytest.raises(LoadError) as caught:
        unpacked(tmp_path / "evil.zip")
    assert message in str(caught.value)
    assert set(files_in(tmp_path)) - before <= {f"cache/batchserve/{f}" for f in files_in(cache)}
    assert all(name.endswith(".lock") for name in files_in(cache))


def test_what_shrinks_well_and_is_small_is_no_bomb(tmp_path, cache):
    folder = unpacked(write_zip(tmp_path / "zeros.zip", model="", **{"zeros.bin": bytes(2**20)}))
    assert (folder / "zeros.bin").stat().st_size == 2**20


def test_a_disk_that_is_too_small_is_named(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(LoadError, match="needs 5 bytes when unpacked, and 1 are free"):
        unpacked(write_zip(tmp_path / "project.zip", model="N = 1"))


def test_an_encrypted_zip_is_refused(tmp_path, cache):
    path = write_zip(tmp_path / "project.zip", model="N = 1")
    content = bytearray(path.read_bytes())
    # Bit 0 of the flags, in the local header and in the directory (APPNOTE.TXT 4.4.4).
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(LoadError, match="is encrypted; zip it without a password"):
        unpacked(path)


def test_a_damaged_member_is_refused_and_leaves_nothing(tmp_path, cache):
    path = write_zip(tmp_path / "project.zip", model="N = 1" * 99, other="")
    content = bytearray(path.read_bytes())
    content[45] ^= 255
    path.write_bytes(content)
    with pytest.raises(LoadError, match="cannot be unpacked to"):
        unpacked(path)
    assert all(name.endswith(".lock") for name in files_in(cache))


def test_who_unpack_at_once_do_it_once(tmp_path, cache, monkeypatch):
    # The lock is an open file's, so that threads stand for processes.
    path, unpack = write_zip(tmp_path / "project.zip", model="N = 1"), unpacking._unpack
    members: list[Any] = []

    def counted(*args: Any) -> None:
        members.append(args)
        unpack(*args)

    monkeypatch.setattr(unpacking, "_unpack", counted)
    with ThreadPoolExecutor(3) as pool:
        (folder,) = set(pool.map(unpacked, [path] * 3))
    assert files_in(folder) == ["model.py"]
    assert len(members) == 1


def test_who_waits_says_for_what(tmp_path, cache, caplog):
    path = write_zip(tmp_path / "project.zip", model="N = 1")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        with only_one(cache_folder("projects") / digest, "testing"):
            waiting = pool.submit(unpacked, path)
            while not caplog.messages:
                pass
        assert waiting.result().is_dir()
    assert caplog.messages[0] == f"waiting for another process, which is unpacking {path}"


def test_a_cache_that_cannot_be_written_is_named_with_the_variable(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        LoadError, match=r"the cache cannot be written: .*; set the .* XDG_CACHE_HOME"
    ):
        unpacked(write_zip(tmp_path / "project.zip", model="N = 1"))


def test_without_the_variable_the_cache_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = unpacked(write_zip(tmp_path / "project.zip", model="N = 1"))
    assert folder.is_relative_to(tmp_path / ".cache" / "batchserve" / "projects")
