"""The section of one model, its batching and its images."""

import pytest

from tests.config.listed import mistakes_in


def test_defaults_of_a_model(read):
    model = read().models[0]
    assert model.model_dump(exclude={"image", "batching"}) == {
        "name": "one",
        "source": "tests.models:tiny",
        "entry": None,
        "sha256": None,
        "architecture": None,
        "weights": None,
        "trust": False,
        "version": "1",
        "task": "tensor",
        "labels": None,
        "input_shape": None,
        "input_dtype": "float32",
        "slo_ms": None,
        "device": "auto",
        "precision": "fp32",
        "quantize": None,
        "channels_last": None,
        "fold_batch_norms": True,
        "parallel_batches": None,
        "compile": False,
        "cuda_graphs": False,
        "autotune": False,
        "reproducible": False,
        "candidate": None,
    }


def test_defaults_of_batching_and_of_images(read):
    model = read().models[0]
    assert model.batching.model_dump() == {
        "max_batch_size": None,
        "max_wait_ms": 2,
        "policy": "adaptive",
        "max_queue_size": 256,
    }
    assert model.image.model_dump() == {
        "resize": 256,
        "crop": 224,
        "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "max_megapixels": 50,
    }


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:13"])
def test_devices(read, device):
    assert read(device=device).models[0].device == device


@pytest.mark.parametrize(("version", "text"), [(1, "1"), (1.5, "1.5"), ("v2.0-rc_1", "v2.0-rc_1")])
def test_a_version_that_yaml_reads_as_a_number_is_text(read, version, text):
    assert read(version=version).models[0].version == text


@pytest.mark.parametrize("version", [True, False])
def test_a_version_that_yaml_reads_as_a_truth_value_is_refused(refused, version):
    # `version: on` would be served as /models/one/versions/True.
    assert "models.0.version: " in refused(version=version)


def test_a_checksum_may_be_in_capitals(read):
    assert read(source="m.pt", sha256="AB" * 32).models[0].sha256 == "ab" * 32


def test_an_entry_may_be_deep(read):
    assert read(source="m.zip", entry="a.b.c:build").models[0].entry == "a.b.c:build"


def test_a_queue_of_just_one_batch_is_enough(read):
    batching = {"max_batch_size": 8, "max_queue_size": 8}
    assert read(batching=batching).models[0].batching.max_queue_size == 8


def test_a_queue_below_one_batch_is_refused_with_both_keys_both_values_and_the_way_out(refused):
    (line,) = mistakes_in(refused(batching={"max_batch_size": 32, "max_queue_size": 8}))
    assert line == (
        "models.0.batching: max_queue_size (8) is below max_batch_size (32): no batch could ever "
        "be full; raise the one or lower the other"
    )


def test_the_default_queue_counts_too(refused):
    assert "max_queue_size (256) is below max_batch_size (512)" in refused(
        batching={"max_batch_size": 512}
    )


def test_a_small_queue_is_enough_where_the_size_of_a_batch_is_found_out(read):
    assert read(batching={"max_queue_size": 1}).models[0].batching.max_batch_size is None


@pytest.mark.parametrize("batching", [{}, {"max_wait_ms": 1}, {"max_batch_size": None}])
def test_reproducible_needs_a_stated_batch_size(refused, batching):
    (line,) = mistakes_in(refused(reproducible=True, batching=batching))
    assert line == (
        "models.0: reproducible: true pads every batch to batching.max_batch_size, which is not "
        "stated; state it"
    )


def test_reproducible_with_a_batch_size(read):
    assert read(reproducible=True, batching={"max_batch_size": 4}).models[0].reproducible
