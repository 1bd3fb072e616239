"""From the bytes of any image file to upright 8-bit RGB, as a person would see it."""

import io

import numpy as np
import pybase64
from PIL import Image, ImageOps

from batchserve.errors import InvalidInput, TooLarge

SIXTEEN_BIT_MODES = {"I;16", "I;16L", "I;16B", "I;16N", "I"}
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Ours takes its place, in `open_image`.
Image.MAX_IMAGE_PIXELS = None
WHITE = (255, 255, 255, 255)


def from_base64(text: str) -> bytes:
    """Return the bytes that a base64 string or a `data:` URL (RFC 2397) holds.

    Raises:
        InvalidInput: it is neither.
    """
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not (comma and header.endswith(";base64")):
            raise InvalidInput("the data: URL must have the form data:image/jpeg;base64,…")
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        pass
    try:
        # MIME wraps lines, and shells add a newline.
        return pybase64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise InvalidInput(
            f"the input is not base64 ({error}); send the file's content, not its name or address"
        ) from None


def open_image(data: bytes, max_megapixels: float) -> Image.Image:
    """Read an image file's header.

    Raises:
        InvalidInput: it is not an image that Pillow knows.
        TooLarge: it has more than `max_megapixels`, which is checked before any pixel is decoded.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise InvalidInput(
            f"the input of {len(data)} bytes is not an image; JPEG, PNG, WebP, GIF, BMP and TIFF "
            f"are read"
        ) from error
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        raise TooLarge(
            f"the image is {image.width}×{image.height}, {megapixels:.1f} megapixels; at most "
            f"image.max_megapixels={max_megapixels:g} are accepted"
        )
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode the pixels: first frame, turned as EXIF says, on white where transparent, 8-bit RGB.

    Raises:
        InvalidInput: the file is truncated or damaged.
    """
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in SIXTEEN_BIT_MODES:
            image = _sixteen_to_eight_bit(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
        # Which would copy it.
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:
        raise InvalidInput(f"the image is truncated or damaged: {error}") from error


def _sixteen_to_eight_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 instead of scaling.
    pixels = np.asarray(image).astype(np.uint32)
    return Image.fromarray((pixels >> 8).clip(0, 255).astype(np.uint8), mode="L")


def resize_and_crop(
    image: Image.Image, resize: int, crop: int, resample: Image.Resampling
) -> Image.Image:
    """Resize the shorter side to `resize` and cut a square of `crop` from the centre, in one pass.

    Up to rounding, the pixels of torchvision's `Resize(resize)` and `CenterCrop(crop)`, but those
    outside the crop are never computed.
    """
    width, height = image.size
    if width <= height:
        new_width, new_height = resize, int(resize * height / width)
    else:
        new_width, new_height = int(resize * width / height), resize
    left = round((new_width - crop) / 2)
    top = round((new_height - crop) / 2)
    x_scale, y_scale = width / new_width, height / new_height
    box = (left * x_scale, top * y_scale, (left + crop) * x_scale, (top + crop) * y_scale)
    return image.resize((crop, crop), resample, box=box)
