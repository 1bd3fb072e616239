import base64
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from batchserve.errors import InvalidInput, TooLarge
from batchserve.tasks.image import from_base64, open_image, resize_and_crop, upright_rgb
from tests.conftest import photo

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# What turns an upright image into one that is stored as that EXIF orientation says.
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
ORIENTATION = 0x0112


def _file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _rgb(data: bytes) -> Image.Image:
    return upright_rgb(open_image(data, 50))


def _pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(image).astype(np.int64)


def _quarters() -> Image.Image:
    """48×32 pixels: red, green above blue, white."""
    image = Image.new("RGB", (48, 32))
    for box, colour in [
        ((0, 0, 24, 16), RED),
        ((24, 0, 48, 16), GREEN),
        ((0, 16, 24, 32), BLUE),
        ((24, 16, 48, 32), WHITE),
    ]:
        image.paste(colour, box)
    return image


def _assert_quarters(image: Image.Image, tolerance: int = 0) -> None:
    assert (image.mode, image.size) == ("RGB", (48, 32))
    corners = _pixels(image)[[4, 4, 27, 27], [4, 43, 4, 43]]
    np.testing.assert_allclose(corners, [RED, GREEN, BLUE, WHITE], atol=tolerance)


def _png(width: int, height: int) -> bytes:
    """A PNG file that claims a size, and holds not one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


# from_base64


DATA = bytes(range(256))
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        base64.encodebytes(DATA).decode(),
        base64.encodebytes(DATA).decode().replace("\n", "\r\n"),
        f"{TEXT}\n",
        f"  {TEXT}  ",
        TEXT[:7] + "\t " + TEXT[7:],
        f"data:image/png;base64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:image/svg+xml;charset=utf-8;base64,{TEXT}",
        f"data:image/png;base64,{base64.encodebytes(DATA).decode()}",
    ],
    ids=[
        "plain",
        "mime",
        "mime-crlf",
        "newline",
        "spaces",
        "inner-space",
        "data-url",
        "data-url-without-type",
        "data-url-with-charset",
        "data-url-mime",
    ],
)
def test_base64_as_plain_text_wrapped_or_a_data_url(text):
    assert from_base64(text) == DATA


@pytest.mark.parametrize("text", ["", "\n", "data:image/png;base64,"])
def test_base64_of_nothing(text):
    assert from_base64(text) == b""


@pytest.mark.parametrize(
    "text",
    ["!", "abc", "abcde", "ab=c", "====", "héllo===", "a-_b", "https://example.org/a.png"],
)
def test_what_is_no_base64_is_refused(text):
    with pytest.raises(InvalidInput, match=r"^the input is not base64 \(."):
        from_base64(text)


def test_a_data_url_with_bad_base64_is_refused():
    with pytest.raises(InvalidInput, match=r"^the input is not base64 \(."):
        from_base64("data:image/png;base64,!!!!")


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png",
        f"data:image/png,{TEXT}",
        f"data:image/png;base64{TEXT}",
        f"data:image/png;base64;{TEXT}",
        f"data:image/png;base32,{TEXT}",
        "data:,hello",
    ],
)
def test_another_data_url_is_refused_with_the_right_form(url):
    with pytest.raises(InvalidInput, match="must have the form data:image/jpeg;base64,…"):
        from_base64(url)


# Formats


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 12),
        ("GIF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 12),
        ("JPEG", {"quality": 95}, 12),
        ("JPEG", {"quality": 95, "progressive": True}, 12),
    ],
)
def test_formats(kind, options, tolerance):
    _assert_quarters(_rgb(_file(_quarters(), kind, **options)), tolerance)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_photo_is_what_pillow_reads(kind):
    data = photo("coffee", kind)
    with Image.open(io.BytesIO(data)) as reference:
        np.testing.assert_array_equal(_pixels(_rgb(data)), _pixels(reference))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_grey_becomes_three_equal_planes(kind):
    grey = Image.linear_gradient("L").resize((64, 64))
    pixels = _pixels(_rgb(_file(grey, kind)))
    assert pixels.shape == (64, 64, 3)
    assert np.ptp(pixels, axis=2).max() <= (3 if kind == "WEBP" else 0)
    assert np.abs(pixels[..., 0] - _pixels(grey)).max() <= 6


def test_black_and_white():
    bilevel = Image.new("1", (4, 4), 1)
    bilevel.putpixel((0, 0), 0)
    image = _rgb(_file(bilevel))
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert image.getpixel((1, 0)) == WHITE


def test_a_palette():
    _assert_quarters(_rgb(_file(_quarters().convert("P", palette=Image.Palette.ADAPTIVE))), 2)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_roughly_the_colours_it_was(kind):
    options = {"quality": 95} if kind == "JPEG" else {}
    _assert_quarters(_rgb(_file(_quarters().convert("CMYK"), kind, **options)), 12)


SIXTEEN_BIT = np.array([[0, 1, 255, 256], [257, 32767, 32768, 65535]], np.uint16).repeat(4, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind):
    pixels = _pixels(_rgb(_file(Image.fromarray(SIXTEEN_BIT), kind)))
    wanted = SIXTEEN_BIT / 257
    assert np.abs(pixels - wanted[..., None]).max() <= 1
    assert pixels.max() == 255


def test_sixteen_bit_grey_keeps_order():
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    pixels = _pixels(_rgb(_file(Image.fromarray(ramp))))[..., 0].ravel()
    assert (np.diff(pixels) >= 0).all()
    assert len(set(pixels.tolist())) == 256


def test_big_endian_sixteen_bit_grey():
    tiff = Image.frombytes("I;16B", (4, 8), SIXTEEN_BIT.astype(">u2").tobytes())
    pixels = _pixels(_rgb(_file(tiff, "TIFF")))
    assert np.abs(pixels - (SIXTEEN_BIT / 257)[..., None]).max() <= 1


# Transparency


def _half_red(mode: str) -> Image.Image:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((255, 0, 0, 128), (4, 0, 8, 4))
    image.paste((255, 0, 0, 0), (4, 4, 8, 8))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("data", "opaque", "half"),
    [
        (_file(_half_red("RGBA")), RED, (255, 127, 127)),
        (_file(_half_red("RGBA"), "WEBP", lossless=True, exact=True), RED, (255, 127, 127)),
        (_file(_half_red("RGBA"), "TIFF"), RED, (255, 127, 127)),
        (_file(_half_red("LA")), (76, 76, 76), (165, 165, 165)),
    ],
    ids=["rgba-png", "rgba-webp", "rgba-tiff", "la-png"],
)
def test_transparency_is_on_white(data, opaque, half):
    image = _rgb(data)
    assert image.mode == "RGB"
    np.testing.assert_allclose(_pixels(image)[0, 0], opaque, atol=1)
    np.testing.assert_allclose(_pixels(image)[1, 6], half, atol=1)
    assert image.getpixel((6, 6)) == WHITE


@pytest.mark.parametrize(
    ("kind", "transparency"), [("PNG", 1), ("PNG", b"\xff\x00"), ("GIF", 1)], ids=repr
)
def test_a_transparent_colour_of_a_palette_is_white(kind, transparency):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *BLUE])
    image.putpixel((3, 3), 1)
    decoded = _rgb(_file(image, kind, transparency=transparency))
    assert decoded.getpixel((0, 0)) == RED
    assert decoded.getpixel((3, 3)) == WHITE


@pytest.mark.parametrize(
    ("mode", "blue", "transparency"), [("RGB", BLUE, BLUE), ("L", 29, 29)], ids=["rgb", "grey"]
)
def test_a_colour_that_png_declares_transparent_is_white(mode, blue, transparency):
    image = _quarters().convert(mode)
    assert image.getpixel((4, 27)) == blue
    decoded = _rgb(_file(image, transparency=transparency))
    assert decoded.getpixel((4, 27)) == WHITE
    assert decoded.getpixel((4, 4)) == (RED if mode == "RGB" else (76, 76, 76))


# Animation


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several(kind):
    first = _quarters()
    others = [Image.new("RGB", first.size, BLUE), Image.new("RGB", first.size, RED)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _file(first, kind, save_all=True, append_images=others, **options)
    assert getattr(open_image(data, 50), "n_frames", 1) == 3
    _assert_quarters(_rgb(data))


# EXIF


def _stored(orientation: int, kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turn = STORED_AS.get(orientation)
    upright = _quarters()
    return _file(upright if turn is None else upright.transpose(turn), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 12),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
    ],
)
def test_each_orientation_is_turned_upright(orientation, kind, options, tolerance):
    _assert_quarters(_rgb(_stored(orientation, kind, **options)), tolerance)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_exif_does_not_know_turns_nothing(orientation):
    _assert_quarters(_rgb(_stored(orientation, "PNG")))


def test_a_transparent_image_is_turned_too():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = _quarters().transpose(Image.Transpose.ROTATE_90).convert("RGBA")
    _assert_quarters(_rgb(_file(stored, exif=exif)))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage and more of it", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_damaged_exif_is_no_reason_to_refuse_a_photo(exif):
    with warnings.catch_warnings():
        # Pillow warns of corrupt EXIF, which a server only logs.
        warnings.simplefilter("ignore", UserWarning)
        _assert_quarters(_rgb(_file(_quarters(), "JPEG", quality=95, exif=exif)), 12)


# What is refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"hello",
        b"{}",
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bytes(range(256)),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
    ],
    ids=repr,
)
def test_what_is_no_image_is_refused_with_its_size_and_what_is_read(data):
    with pytest.raises(InvalidInput) as caught:
        open_image(data, 50)
    assert str(caught.value) == (
        f"the input of {len(data)} bytes is not an image; JPEG, PNG, WebP, GIF, BMP and TIFF are "
        f"read"
    )


def test_a_format_that_would_be_handed_to_another_program_is_refused():
    # Pillow has Ghostscript interpret EPS, which is a programming language.
    data = _file(_quarters(), "EPS")
    with pytest.raises(InvalidInput, match="is not an image; JPEG, PNG"):
        open_image(data, 50)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_a_truncated_image_is_refused(kind, share):
    data = photo("coffee", kind)
    with pytest.raises(InvalidInput, match=r"truncated or damaged: .|is not an image"):
        _rgb(data[: int(share * len(data))])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_image_that_has_its_header_is_called_truncated(kind):
    data = photo("coffee", kind)
    image = open_image(data[: len(data) // 2], 50)
    with pytest.raises(InvalidInput, match=r"^the image is truncated or damaged: ."):
        upright_rgb(image)


def test_a_damaged_png_is_refused():
    data = bytearray(photo("coffee"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(InvalidInput, match=r"^the image is truncated or damaged: ."):
        _rgb(bytes(data))


def test_a_png_without_pixels_is_refused():
    with pytest.raises(InvalidInput, match=r"^the image is truncated or damaged: ."):
        _rgb(_png(10, 10))


# Megapixels


@pytest.mark.parametrize(
    ("width", "height", "limit", "megapixels"),
    [(10_000, 6_000, 50, "60.0"), (1_001, 1_000, 1, "1.0"), (100_000, 1, 0.05, "0.1")],
)
def test_too_many_pixels_are_refused_with_their_number_and_the_limit(
    width, height, limit, megapixels
):
    with pytest.raises(TooLarge) as caught:
        open_image(_png(width, height), limit)
    assert str(caught.value) == (
        f"the image is {width}×{height}, {megapixels} megapixels; at most "
        f"image.max_megapixels={limit:g} are accepted"
    )


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_with_the_limit(width, height):
    with pytest.raises(TooLarge, match=r"image\.max_megapixels=50\b"):
        open_image(_png(width, height), 50)


@pytest.mark.parametrize(("width", "height"), [(1_000, 1_000), (10_000, 10_000)])
def test_as_many_pixels_as_the_limit_are_taken(width, height):
    image = open_image(_png(width, height), width * height / 1e6)
    assert image.size == (width, height)


def test_a_limit_above_pillows_own_is_obeyed_too():
    assert open_image(_png(20_000, 10_000), 500).size == (20_000, 10_000)


def test_pixels_are_counted_before_any_is_decoded(monkeypatch):
    data = photo("coffee")

    def decode(_self: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(TooLarge):
        open_image(data, 0.1)
    assert open_image(data, 1).size == (600, 400)


# resize_and_crop


INTERPOLATIONS = {
    "nearest": (Image.Resampling.NEAREST, InterpolationMode.NEAREST),
    "bilinear": (Image.Resampling.BILINEAR, InterpolationMode.BILINEAR),
    "bicubic": (Image.Resampling.BICUBIC, InterpolationMode.BICUBIC),
}
SIZES = [
    (256, 256),
    (224, 224),
    (500, 500),
    (600, 400),
    (400, 600),
    (451, 300),
    (427, 640),
    (640, 427),
    (319, 458),
    (224, 300),
    (1000, 100),
    (100, 1000),
    (1201, 799),
    (30, 20),
    (7, 9),
    (2, 3),
    (1, 1),
]


def _noise(width: int, height: int) -> Image.Image:
    # Within 80 and 176, bicubic overshoots stay within 0 and 255: where they are cut between
    # the two passes, the order of the passes shows.
    random = np.random.default_rng(width + height)
    return Image.fromarray(random.integers(80, 176, (height, width, 3), dtype=np.uint8))


def _gradient(width: int, height: int) -> Image.Image:
    plane = Image.linear_gradient("L")
    across = plane.transpose(Image.Transpose.ROTATE_90)
    return Image.merge("RGB", [plane, across, plane]).resize((width, height))


def _coffee(width: int, height: int) -> Image.Image:
    return Image.fromarray(skimage.data.coffee()).resize((width, height))


def _difference(
    image: Image.Image, resize: int, crop: int, interpolation: str
) -> np.ndarray[Any, np.dtype[np.int64]]:
    ours, theirs = INTERPOLATIONS[interpolation]
    reference = Compose([Resize(resize, interpolation=theirs), CenterCrop(crop)])
    got = resize_and_crop(image, resize, crop, ours)
    assert got.size == (crop, crop)
    return np.abs(_pixels(got) - _pixels(reference(image)))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(
    ("interpolation", "make"),
    [
        ("bilinear", _noise),
        ("bilinear", _coffee),
        ("bicubic", _noise),
        ("nearest", _gradient),
    ],
    ids=["bilinear-noise", "bilinear-coffee", "bicubic-noise", "nearest-gradient"],
)
def test_the_pixels_are_those_of_torchvision(
    width: int, height: int, interpolation: str, make: Callable[[int, int], Image.Image]
):
    difference = _difference(make(width, height), 256, 224, interpolation)
    # Two passes round twice; torchvision may make them in the other order.
    assert (difference > 1).mean() < 1e-4
    assert difference.max() <= 2


@pytest.mark.parametrize(
    ("resize", "crop"), [(232, 224), (224, 224), (256, 256), (342, 299), (64, 1), (8, 8), (1, 1)]
)
@pytest.mark.parametrize(("width", "height"), [(600, 400), (400, 600), (333, 333)])
def test_other_sizes_of_resize_and_crop(width, height, resize, crop):
    assert _difference(_noise(width, height), resize, crop, "bilinear").max() <= 1


def test_odd_margins_are_cut_as_torchvision_cuts_them():
    # 12.5 and 13.5 pixels beside the crop: which side gets the larger half must be the same.
    for resize in (249, 251):
        image = _gradient(resize, resize)
        assert _difference(image, resize, 224, "nearest").max() == 0


def test_only_the_centre_is_seen():
    image = Image.new("RGB", (512, 256), RED)
    image.paste(GREEN, (128, 0, 384, 256))
    assert resize_and_crop(image, 256, 224, Image.Resampling.BILINEAR).getcolors() == [
        (224 * 224, GREEN)
    ]


@pytest.mark.parametrize(("width", "height"), [(1, 5000), (5000, 1), (3, 20_000)])
def test_a_strip_costs_no_more_than_its_crop(width, height):
    # Resized as a whole, it would have 256 × 1,280,000 pixels.
    strip = Image.new("RGB", (width, height), BLUE)
    cropped = resize_and_crop(strip, 256, 224, Image.Resampling.BILINEAR)
    assert cropped.getcolors() == [(224 * 224, BLUE)]


def test_no_box_leaves_the_image_by_rounding():
    random = np.random.default_rng(0)
    for width, height in random.integers(1, 3000, (200, 2)):
        image = Image.new("RGB", (int(width), int(height)))
        for resize in (224, 257, 300):
            assert resize_and_crop(image, resize, resize, Image.Resampling.NEAREST).width == resize
