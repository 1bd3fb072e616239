import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn
from torchvision.models import get_model_weights

from batchserve.config import Config, ImageConfig
from batchserve.errors import InvalidInput, LoadError, TooLarge
from batchserve.loading import load_module
from batchserve.tasks import build_task
from batchserve.tasks.image_classification import (
    ImageClassification,
    Prediction,
    TopK,
    imagenet_labels,
)
from batchserve.tasks.tensors import TensorSpec
from tests.conftest import photo

Classify = Callable[..., list[Prediction]]
Make = Callable[..., ImageClassification]


@pytest.fixture(scope="module")
def classify(shipped_config: Config) -> Iterator[Classify]:
    """Return a function from one payload to the answer of the model that is shipped."""
    # Where others use the cores too, several threads mostly wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = shipped_config.models[0]
    module = load_module(config)
    task = build_task(config, module)

    def classify(payload: str | bytes, top_k: int = 5) -> list[Prediction]:
        with torch.inference_mode():
            scores = task.postprocess(module(task.preprocess(task.decode(payload)[None])))
        answer = task.encode(scores[0], TopK(top_k=top_k))
        return [Prediction.model_validate(prediction) for prediction in answer]

    yield classify
    torch.set_num_threads(threads)


@pytest.fixture
def make(configure) -> Make:
    """Return a function that makes the task of a config with those keys."""

    def make(**model) -> ImageClassification:
        config = configure(task="image-classification", **model).models[0]
        return ImageClassification.from_config(config, nn.Identity())

    return make


def _file(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=95)
    return file.getvalue()


def _coffee(width: int) -> Image.Image:
    image = Image.fromarray(skimage.data.coffee())
    return image.resize((width, width * 2 // 3), Image.Resampling.LANCZOS)


def _labels_of(task: ImageClassification, classes: int) -> list[str]:
    row = torch.arange(classes, 0, -1).float()
    return [prediction["label"] for prediction in task.encode(row, TopK(top_k=classes))]


# Real photos through the model that is shipped


def test_coffee_is_an_espresso(classify):
    best, *others = classify(photo("coffee"))
    assert (best.label, best.index) == ("espresso", 967)
    assert best.score == pytest.approx(0.957, abs=0.002)
    assert len(others) == 4


def test_chelsea_is_a_cat(classify):
    assert classify(photo("chelsea"))[0].label in ("tiger cat", "Egyptian cat", "tabby")


def test_a_rocket_is_a_missile(classify):
    assert classify(photo("rocket"))[0].label == "missile"


def test_base64_and_a_data_url_are_answered_as_the_bytes_are(classify):
    data = photo("coffee")
    text = base64.b64encode(data).decode()
    assert classify(text) == classify(f"data:image/png;base64,{text}") == classify(data)


def test_the_scores_of_all_classes_are_sorted_and_add_up_to_one(classify):
    scores = [prediction.score for prediction in classify(photo("rocket"), top_k=1000)]
    assert len(scores) == 1000
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_the_kind_of_file_does_not_matter_where_none_loses_anything(classify, kind):
    assert classify(photo("coffee", kind)) == classify(photo("coffee"))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_kind_of_file_hardly_matters_where_it_loses_little(classify, kind):
    best = classify(_file(_coffee(600), kind))[0]
    assert best.label == "espresso"
    assert best.score == pytest.approx(0.957, abs=0.02)


@pytest.mark.parametrize("width", [1200, 3000, 4500])
def test_a_large_jpeg_that_is_halved_while_it_is_decoded_is_answered_as_the_whole(classify, width):
    data = _file(_coffee(width), "JPEG")
    with Image.open(io.BytesIO(data)) as whole:
        bitmap = _file(whole, "BMP")
    halved, undrafted = classify(data)[0], classify(bitmap)[0]
    assert halved.label == undrafted.label == "espresso"
    assert halved.score == pytest.approx(undrafted.score, abs=0.02)


@pytest.mark.parametrize("quality", [50, 95])
@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "astronaut"])
def test_a_jpeg_on_the_short_way_is_answered_as_on_pillows(classify, monkeypatch, name, quality):
    file = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(file, "JPEG", quality=quality)
    short = classify(file.getvalue())
    monkeypatch.setattr("batchserve.tasks.jpeg.decoded", lambda *_args: None)
    pillows = classify(file.getvalue())
    assert short[0].label == pillows[0].label
    scores = {one.label: one.score for one in classify(file.getvalue(), top_k=1000)}
    assert all(one.score == pytest.approx(scores[one.label], abs=0.02) for one in short)


def test_a_photo_on_its_side_is_answered_as_upright(classify):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned = Image.fromarray(skimage.data.chelsea()).transpose(Image.Transpose.ROTATE_90)
    turned.save(file, "PNG", exif=exif)
    assert classify(file.getvalue()) == classify(photo("chelsea"))


# decode


@pytest.mark.parametrize(
    ("image", "crop"), [({}, 224), ({"crop": 64, "resize": 64}, 64), ({"crop": 1}, 1)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_item_is_uint8_with_the_channels_last(make, image, crop, kind):
    item = make(image=image).decode(photo("coffee", kind))
    assert (item.dtype, item.shape) == (torch.uint8, (crop, crop, 3))


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (224, 224), (700, 300)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK"])
def test_an_item_has_one_shape_whatever_the_image(make, size, mode):
    kind = "PNG" if mode == "RGBA" else "JPEG"
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    assert make().decode(file.getvalue()).shape == (224, 224, 3)


def test_an_item_can_be_written_to(make):
    # torch.from_numpy warns of memory that may not be written, and warnings are errors here.
    item = make().decode(photo("coffee"))
    item[0, 0, 0] = 7
    assert item[0, 0, 0] == 7


@pytest.mark.parametrize("payload", ["!", "", b"", b"hello", base64.b64encode(b"hello").decode()])
def test_what_is_no_image_is_refused(make, payload):
    with pytest.raises(InvalidInput):
        make().decode(payload)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_is_refused(make, kind):
    with pytest.raises(InvalidInput, match="truncated or damaged"):
        make().decode(photo("coffee", kind)[:20_000])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_limit_of_megapixels_is_the_configs(make, kind):
    data = photo("coffee", kind)
    assert make(image={"max_megapixels": 0.24}).decode(data).shape == (224, 224, 3)
    with pytest.raises(TooLarge, match=r"600×400, 0\.2 megapixels; .*max_megapixels=0\.23 "):
        make(image={"max_megapixels": 0.23}).decode(data)


# preprocess and postprocess


def test_a_batch_is_normalised_by_mean_and_std():
    config = ImageConfig(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 2))
    torch.manual_seed(0)
    batch = torch.randint(0, 256, (3, 4, 4, 3), dtype=torch.uint8)
    before = batch.clone()
    planes = ImageClassification(config).preprocess(batch)
    wanted = (batch.double() / 255 - torch.tensor(config.mean)) / torch.tensor(config.std)
    assert planes.dtype == torch.float32
    torch.testing.assert_close(
        planes.double(), wanted.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-6, check_dtype=True
    )
    assert torch.equal(batch, before)


def test_the_shipped_model_gets_pixels_less_127_over_128(shipped_config):
    task = ImageClassification(shipped_config.models[0].image)
    batch = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    wanted = (torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, 16, 16) - 127) / 128
    torch.testing.assert_close(task.preprocess(batch), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_are_a_softmax_in_fp32(dtype):
    logits = torch.tensor([[1.0, 2, 3], [50, 0, -50]], dtype=dtype)
    scores = ImageClassification(ImageConfig()).postprocess(logits)
    assert scores.dtype == torch.float32
    wanted = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    torch.testing.assert_close(scores.double(), wanted, rtol=1e-6, atol=1e-9)


# encode


ROW = torch.tensor([0.1, 0.6, 0.05, 0.25])


@pytest.mark.parametrize(
    ("top_k", "labels"),
    [
        (1, ["dog"]),
        (2, ["dog", "fish"]),
        (4, ["dog", "fish", "cat", "bird"]),
        (5, ["dog", "fish", "cat", "bird"]),
        (10**9, ["dog", "fish", "cat", "bird"]),
    ],
)
def test_the_best_predictions_first(top_k, labels):
    task = ImageClassification(ImageConfig(), ["cat", "dog", "bird", "fish"])
    assert [one["label"] for one in task.encode(ROW, TopK(top_k=top_k))] == labels


def test_a_prediction_is_a_label_an_index_and_a_score():
    task = ImageClassification(ImageConfig(), ["cat", "dog", "bird", "fish"])
    answer = task.encode(ROW, TopK(top_k=2))
    assert answer == [
        {"label": "dog", "index": 1, "score": 0.6},
        {"label": "fish", "index": 3, "score": 0.25},
    ]
    assert [type(value) for value in answer[0].values()] == [str, int, float]


def test_without_labels_a_class_is_called_by_its_number():
    (best,) = ImageClassification(ImageConfig()).encode(ROW, TopK(top_k=1))
    assert best == {"label": "1", "index": 1, "score": 0.6}


def test_five_predictions_are_the_default():
    assert TopK().top_k == 5


@pytest.mark.parametrize("parameters", [{"top_k": 0}, {"top_k": -1}, {"top_k": "a"}, {"topk": 1}])
def test_other_parameters_are_refused(parameters):
    with pytest.raises(ValidationError):
        TopK.model_validate(parameters)


@pytest.mark.parametrize("shape", [(3,), (5,), (1000,), (2, 2), ()])
def test_a_row_that_does_not_fit_the_labels_is_refused_with_both_sizes(shape):
    task = ImageClassification(ImageConfig(), ["cat", "dog", "bird", "fish"])
    with pytest.raises(ValueError, match=re.escape(f"shape {list(shape)}, ")) as caught:
        task.encode(torch.zeros(shape), TopK())
    assert "there are 4 labels" in str(caught.value)


def test_a_row_of_planes_is_refused_without_labels_too():
    with pytest.raises(ValueError, match=re.escape("[3, 2]")):
        ImageClassification(ImageConfig()).encode(torch.zeros(3, 2), TopK())


def test_an_example_is_an_item(make):
    task = make(image={"crop": 96})
    example = task.example()
    item = task.decode(photo("coffee"))
    assert (example.dtype, example.shape) == (item.dtype, item.shape)


# Labels


def test_the_labels_of_imagenet():
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert (labels[0], labels[967], labels[999]) == ("tench", "espresso", "toilet tissue")


def test_labels_from_a_list(make):
    assert _labels_of(make(labels=["cat", "dog"]), 2) == ["cat", "dog"]


def test_labels_by_the_name_of_imagenet(make):
    assert _labels_of(make(labels="imagenet"), 1000) == imagenet_labels()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.txt", "tabby cat\ndog\nÄffchen\n"),
        ("labels.txt", "tabby cat\ndog\nÄffchen"),
        ("labels.txt", "tabby cat\r\ndog\r\nÄffchen\r\n"),
        ("labels", "tabby cat\ndog\nÄffchen\n"),
        ("labels.json", '["tabby cat", "dog", "Äffchen"]'),
        ("labels.json", json.dumps(["tabby cat", "dog", "Äffchen"])),
    ],
    ids=["text", "no-end", "windows", "no-suffix", "json", "json-escaped"],
)
def test_labels_from_a_file(make, tmp_path, file, content):
    (tmp_path / file).write_text(content, encoding="utf-8", newline="")
    assert _labels_of(make(labels=file), 3) == ["tabby cat", "dog", "Äffchen"]


@pytest.mark.parametrize(
    ("file", "content"), [("a.txt", "cat\ndog\n"), ("a.json", '["cat", "dog"]')]
)
def test_the_mark_that_windows_editors_begin_a_file_with_is_no_part_of_a_label(
    make, tmp_path, file, content
):
    (tmp_path / file).write_text(content, encoding="utf-8-sig")
    assert _labels_of(make(labels=file), 2) == ["cat", "dog"]


def test_numbers_in_a_json_file_are_labels_too(make, tmp_path):
    (tmp_path / "labels.json").write_text("[7, 13]")
    assert _labels_of(make(labels="labels.json"), 2) == ["7", "13"]


def test_without_labels_classes_are_numbers(make):
    assert _labels_of(make(), 3) == ["0", "1", "2"]


def test_labels_that_are_not_there_are_refused_with_the_path(make, tmp_path):
    with pytest.raises(LoadError) as caught:
        make(labels="classes.txt")
    assert str(caught.value).startswith(f"labels: {tmp_path / 'classes.txt'} cannot be read: ")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["imagnet", "imagenet1k", "ImageNet", "imagenet.txt"])
def test_labels_that_are_not_there_but_nearly_imagenet_get_a_hint(make, name):
    with pytest.raises(LoadError, match=r"cannot be read: .*; did you mean imagenet\?$"):
        make(labels=name)


@pytest.mark.parametrize(
    ("file", "content"),
    [("labels.txt", b"\xff\xfe\x00"), ("labels.json", b"cat\ndog\n"), ("labels.json", b"")],
)
def test_labels_that_cannot_be_read_are_refused(make, tmp_path, file, content):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(LoadError, match=re.escape(f"labels: {tmp_path / file} cannot be read: ")):
        make(labels=file)


@pytest.mark.parametrize(
    "held", [{"0": "cat", "1": "dog"}, {"0": ["n01", "cat"]}, [["n01", "cat"]], 5, None, "cat"]
)
def test_json_labels_that_are_no_list_of_names_are_refused(make, tmp_path, held):
    # The keys of a mapping would silently become the labels: "0", "1".
    (tmp_path / "labels.json").write_text(json.dumps(held))
    with pytest.raises(LoadError, match=r"^labels: .*labels\.json"):
        make(labels="labels.json")


# What torchvision says of its models


def _reference(name: str, weights: str, image: Image.Image) -> Any:
    return get_model_weights(name)[weights].transforms()(image)


@pytest.mark.parametrize(
    ("name", "weights", "resize", "crop"),
    [
        ("resnet50", "DEFAULT", 232, 224),
        ("resnet50", "IMAGENET1K_V2", 232, 224),
        ("resnet50", "IMAGENET1K_V1", 256, 224),
        ("efficientnet_b0", "DEFAULT", 256, 224),
        ("inception_v3", "DEFAULT", 342, 299),
        ("swin_v2_t", "DEFAULT", 260, 256),
        ("maxvit_t", "DEFAULT", 224, 224),
        ("vit_h_14", "IMAGENET1K_SWAG_E2E_V1", 518, 518),
    ],
)
@pytest.mark.parametrize("picture", ["coffee", "rocket", "chelsea"])
def test_a_model_of_torchvision_gets_the_pixels_that_torchvision_gives_it(
    make, name, weights, resize, crop, picture
):
    task = make(source=f"torchvision:{name}", weights=weights)
    assert (task._config.resize, task._config.crop) == (resize, crop)
    planes = task.preprocess(task.decode(photo(picture))[None])[0]
    wanted = _reference(name, weights, Image.fromarray(getattr(skimage.data, picture)()))
    levels = (planes - wanted).abs() * 255 * torch.tensor(task._config.std).view(3, 1, 1)
    # Bicubic overshoots are cut between two passes, whose order may differ.
    assert levels.max() <= (1.01 if task._config.interpolation == "bilinear" else 8)
    assert levels.mean() < 0.1


@pytest.mark.parametrize("weights", [None, "weights.pth"])
def test_random_weights_and_a_file_of_weights_get_the_pixels_of_the_default(make, weights):
    task = make(source="torchvision:resnet50", weights=weights)
    assert (task._config.resize, task._config.crop) == (232, 224)


def test_what_the_config_says_of_an_image_wins_and_the_rest_is_torchvisions(make):
    task = make(
        source="torchvision:swin_v2_t", weights="DEFAULT", image={"resize": 300, "mean": [0, 0, 0]}
    )
    assert task._config == ImageConfig(
        resize=300,
        crop=256,
        interpolation="bicubic",
        mean=(0, 0, 0),
        std=(0.229, 0.224, 0.225),
    )


def test_the_configs_own_default_wins_too_where_it_is_written_down(make):
    task = make(source="torchvision:resnet50", weights="DEFAULT", image={"resize": 256})
    assert task._config.resize == 256


def test_another_source_has_the_defaults_of_the_config(make):
    assert make(source="tests.models:tiny")._config == ImageConfig()


@pytest.mark.parametrize(
    ("source", "image", "crop", "resize"),
    [
        ("tests.models:tiny", {"crop": 512}, 512, 256),
        ("tests.models:tiny", {"resize": 100}, 224, 100),
        ("torchvision:resnet50", {"crop": 233}, 233, 232),
    ],
)
def test_a_crop_beyond_the_resized_image_is_refused_with_both(make, source, image, crop, resize):
    with pytest.raises(LoadError) as caught:
        make(source=source, image=image)
    assert str(caught.value) == (
        f"image.crop ({crop}) does not fit in image.resize ({resize}); lower the one or raise the "
        f"other"
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_weights_of_torchvision_bring_their_labels(make, name):
    task = make(source=f"torchvision:{name}", weights="DEFAULT")
    assert _labels_of(task, 1000) == imagenet_labels()


def test_the_labels_of_the_config_win_over_those_of_the_weights(make):
    task = make(source="torchvision:resnet18", weights="DEFAULT", labels=["cat", "dog"])
    assert _labels_of(task, 2) == ["cat", "dog"]


@pytest.mark.parametrize("weights", [None, "weights.pth", "/WEIGHTS/CATS.PTH"])
def test_other_weights_bring_no_labels(make, weights):
    task = make(source="torchvision:resnet18", weights=weights)
    assert _labels_of(task, 3) == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["fcn_resnet50", "fasterrcnn_resnet50_fpn", "raft_small"])
def test_a_model_of_torchvision_that_classifies_no_images_is_refused(make, name):
    with pytest.raises(LoadError, match=name):
        make(source=f"torchvision:{name}")


def test_the_shipped_labels_match_the_shipped_model(shipped_config):
    task = build_task(shipped_config.models[0], nn.Identity())
    assert isinstance(task, ImageClassification)
    assert _labels_of(task, 1000) == imagenet_labels()


def test_labels_are_read_from_beside_the_config(make, tmp_path: Path):
    folder = tmp_path / "deeper"
    folder.mkdir()
    (folder / "labels.txt").write_text("cat\ndog\n")
    assert _labels_of(make(labels="deeper/labels.txt"), 2) == ["cat", "dog"]


# As named tensors

SMALL = {"image": {"crop": 8, "resize": 8, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}


def test_its_one_input_is_files(make):
    assert make().input_specs() == (TensorSpec("input", "BYTES", (1,)),)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_bytes_are_files(make, shape):
    files = np.empty(2, dtype=object)
    files[:] = [photo("coffee"), b"no image"]
    assert make().payloads({"input": files.reshape(shape)}) == [photo("coffee"), b"no image"]


def test_pixels_are_items_already(make):
    pixels = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    pixels.flags.writeable = False
    first, second = make(**SMALL).payloads({"input": pixels})
    assert first.dtype == torch.uint8
    assert np.array_equal(first.numpy(), pixels[0])
    assert np.array_equal(second.numpy(), pixels[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_normalised_is_not_normalised_again(make, dtype):
    task = make(**SMALL)
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    normalised = task.preprocess(pixels)
    items = task.payloads({"input": normalised.numpy().astype(dtype)})
    assert {item.dtype for item in items} == {torch.float32}
    seen = task.preprocess(torch.stack(list(items)))
    assert torch.allclose(seen, normalised, atol=2e-3 if dtype == np.float16 else 0)
    assert task.bucket_key(items[0]) != task.bucket_key(pixels[0])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 9, 9, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.int64),
        np.zeros(1, np.float32),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_other_tensors_are_no_images(make, array):
    with pytest.raises(InvalidInput) as caught:
        make(**SMALL).payloads({"input": array})
    message = str(caught.value)
    assert f"of shape {list(array.shape)} are no images" in message
    assert "UINT8 of shape [n, 8, 8, 3]" in message
    assert "FP32 of shape [n, 3, 8, 8]" in message


@pytest.mark.parametrize("number", [np.nan, -np.inf, 1e39])
def test_normalised_images_are_finite(make, number):
    with pytest.raises(InvalidInput, match="must be finite"):
        make(**SMALL).payloads({"input": np.full((1, 3, 8, 8), number)})


def test_its_labels_are_those_of_the_classes(make):
    assert make().labels is None
    assert make(labels=["cat", "dog"]).labels == ["cat", "dog"]
