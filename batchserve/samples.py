"""Photos to try an image model with: scikit-image's, if the extra `demo` is installed."""

import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageOps

PHOTOS = {"coffee": "A cup of coffee", "chelsea": "A cat", "rocket": "A rocket"}
JPEG_QUALITY = 90


def find_photos() -> dict[str, Path]:
    """Return where the photos lie, by name; those that are not there are left out."""
    # Not imported, which would take its time.
    package = find_spec("skimage")
    folders = (package.submodule_search_locations if package else None) or []
    return {
        name: path
        for folder in folders
        for name in PHOTOS
        for path in (Path(folder) / "data").glob(f"{name}.*")
    }


@cache
def as_jpeg(path: Path) -> bytes:
    """Return an image file as JPEG, which is a fraction of its size; it blocks."""
    file = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def mirrored(jpeg: bytes) -> bytes:
    """Return an image as a mirror shows it: another input, and a photo still; it blocks."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(jpeg)) as image:
        ImageOps.mirror(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def drawn_jpeg(width: int = 640, height: int = 480) -> bytes:
    """Return an image that nobody photographed, as large as a photo is; it blocks."""
    shades = Image.radial_gradient("L").resize((width, height))
    noise = Image.effect_noise((width, height), 40)
    file = io.BytesIO()
    Image.merge("RGB", (shades, noise, shades)).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
