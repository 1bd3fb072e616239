"""Usual JPEG files take the short way, to the pixels that Pillow and torchvision come to."""

import io
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from batchserve.tasks import jpeg
from tests.conftest import photo


def _file(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def _coffee(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(skimage.data.coffee()).resize((width, height)).convert(mode)


def _decoded(data: bytes, least: int = 512) -> np.ndarray[Any, Any] | None:
    with Image.open(io.BytesIO(data)) as image:
        return jpeg.decoded(data, image, least)


@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 30}, {"quality": 100, "subsampling": 0}, {"progressive": True}],
    ids=["usual", "coarse", "fine", "progressive"],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("width", "height", "divisor"),
    [(500, 400, 1), (1023, 1023, 1), (1024, 1500, 2), (1025, 1027, 2), (3001, 2100, 4), (1, 1, 1)],
)
def test_the_pixels_are_those_that_pillow_decodes(mode, options, width, height, divisor):
    data = _file(_coffee(width, height, mode), **options)
    found = _decoded(data)
    with Image.open(io.BytesIO(data)) as image:
        image.draft(mode, (512, 512))
        assert image.width == -(-width // divisor)
        wanted = np.asarray(image.convert("RGB"), dtype=int)
    assert found is not None
    assert found.dtype == np.uint8
    # Both have libjpeg-turbo, though not of one version.
    assert np.abs(found - wanted).max() <= 1


def _turned() -> bytes:
    exif = Image.Exif()
    exif[jpeg.ORIENTATION] = 6
    return _file(_coffee(60, 40), exif=exif)


@pytest.mark.parametrize(
    "data",
    [
        _turned(),
        _file(_coffee(60, 40, "CMYK")),
        _file(_coffee(600, 400))[:5000],
        _file(_coffee(400, 100)),
        _file(_coffee(100, 400)),
        photo("coffee"),
    ],
    ids=["turned", "CMYK", "truncated", "wide", "high", "PNG"],
)
def test_what_is_not_usual_is_left_to_pillow(data):
    assert _decoded(data) is None


def test_what_the_decoder_refuses_is_left_to_pillow():
    data = _file(_coffee(60, 40))
    with Image.open(io.BytesIO(data)) as image:
        assert jpeg.decoded(b"no JPEG any more", image, 512) is None


@pytest.mark.parametrize(
    ("mode", "theirs", "most"),
    # What bicubic overshoots is cut between two passes, whose order may differ.
    [("bilinear", InterpolationMode.BILINEAR, 1), ("bicubic", InterpolationMode.BICUBIC, 4)],
)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (224, 224), (249, 224), (64, 1)])
@pytest.mark.parametrize(("width", "height"), [(600, 400), (333, 999), (400, 401), (30, 20)])
def test_resized_and_cropped_are_the_pixels_of_torchvision(
    mode, theirs, most, resize, crop, width, height
):
    image = _coffee(width, height)
    found = jpeg.resize_and_crop(np.asarray(image).copy(), resize, crop, mode)
    wanted = Compose([Resize(resize, theirs), CenterCrop(crop)])(image)
    assert (found.dtype, found.shape, found.is_contiguous()) == (torch.uint8, (crop, crop, 3), True)
    difference = np.abs(found.numpy().astype(int) - np.asarray(wanted, dtype=int))
    assert difference.max() <= most
    assert (difference > 1).mean() < 1e-4
