"""The photos that the page offers."""

import io

from PIL import Image

from batchserve import samples
from batchserve.samples import PHOTOS, as_jpeg, find_photos


def test_the_photos_of_the_demonstration_are_found():
    assert find_photos().keys() == PHOTOS.keys()


def test_a_photo_is_sent_as_a_small_jpeg():
    for path in find_photos().values():
        data = as_jpeg(path)
        assert Image.open(io.BytesIO(data)).format == "JPEG"
        assert len(data) < 100_000


def test_without_the_demonstration_there_are_none(monkeypatch):
    monkeypatch.setattr(samples, "find_spec", lambda _name: None)
    assert find_photos() == {}
