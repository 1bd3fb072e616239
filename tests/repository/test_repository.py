"""The repository: what is served, in what state, and what happens when loading fails."""

import asyncio

import pytest
import torch
from torch import nn

from batchserve.batch import Terms
from batchserve.config import Config
from batchserve.errors import Draining, LoadError, NotFound, NotReady
from batchserve.repository import ModelRepository, State


class AtMostThree(nn.Module):
    """Needs more memory than there is for more items than three."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 3:
            batch.new_empty(2**45)
        return batch


class Nothing(nn.Module):
    """Knows no answer to anything."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.full((len(batch), 3), torch.nan)


class Scaled(nn.Module):
    """Lets an answer depend on the neighbours."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch / batch.abs().max()


def wide() -> nn.Module:
    return nn.Linear(64, 64)


def repository_of(config: Config, **kwargs) -> ModelRepository:
    return ModelRepository(config.models, **kwargs)


async def ask(repository: ModelRepository, tensor: torch.Tensor) -> list[float]:
    batcher = repository.find().batcher
    by_s = batcher.clock() + 60
    with batcher.arrival(Terms(by_s, by_s)) as arrival:
        (item,) = arrival.submit([tensor])
        row: torch.Tensor = await item.future
    return row.tolist()


async def test_a_version_goes_from_loading_over_warming_to_ready(configure, caplog):
    repository = repository_of(configure())
    (version,) = repository.versions
    assert (version.state, repository.ready) == (State.LOADING, False)
    with pytest.raises(NotReady, match="loading"):
        repository.find().check_ready()
    with caplog.at_level("INFO"):
        await repository.load()
    assert (version.state, repository.ready) == (State.READY, True)
    assert repr(version) == "<ModelVersion tiny:1 | ready>"
    assert list(version.forward_s) == [1, 2, 4]
    assert "warm-up: batch of  4 of 4" in caplog.text
    assert len(await ask(repository, torch.ones(10))) == 10
    await repository.close()
    assert (version.state, repository.ready) == (State.DRAINING, False)
    with pytest.raises(Draining):
        repository.find().check_ready()


async def test_batches_are_reported_with_their_version(configure):
    batches = []
    repository = repository_of(configure(), on_batch=lambda *record: batches.append(record))
    await repository.load()
    await ask(repository, torch.ones(10))
    ((version, batch),) = batches
    assert (version.name, len(batch)) == ("tiny", 1)
    await repository.close()


async def test_a_model_that_fails_on_its_own_example_does_not_become_ready(configure):
    repository = repository_of(configure(input_shape=[7]))
    with pytest.raises(LoadError, match=r"model tiny: a forward pass on .* \[7\] failed"):
        await repository.load()
    assert repository.versions[0].state is State.FAILED
    await repository.close()


async def test_an_answer_to_the_example_that_is_not_finite_is_found_out_too(configure):
    config = configure(source=f"{__name__}:Nothing", task="image-classification")
    with pytest.raises(LoadError, match=r"RowFault: .* not finite"):
        await repository_of(config).load()


async def test_the_size_of_batches_is_found_where_it_is_not_stated(configure, caplog):
    repository = repository_of(configure(batching={"max_queue_size": 8}))
    with caplog.at_level("INFO"):
        await repository.load()
    (version,) = repository.versions
    assert version.max_batch_size == max(version.forward_s) <= 8
    assert f"batches of up to {version.max_batch_size} (" in version.summary
    assert "warm-up: batch of  1 in" in caplog.text
    await repository.close()


@pytest.mark.parametrize(
    ("batching", "size"),
    [({}, 16), ({"max_queue_size": 8}, 8), ({"max_batch_size": 32}, 32)],
)
async def test_where_nothing_can_be_measured_it_is_sixteen(configure, batching, size):
    repository = repository_of(configure(source="tests.models:Double", batching=batching))
    await repository.load()
    assert repository.find().max_batch_size == size
    await repository.close()


async def test_a_stated_size_that_does_not_fit_into_memory_is_lowered(configure, caplog):
    config = configure(source="tests.repository.test_repository:AtMostThree", input_shape=[2])
    repository = repository_of(config)
    await repository.load()
    assert repository.find().max_batch_size == 2
    assert "does not suffice for max_batch_size: 4; 2 is used" in caplog.text
    await repository.close()


async def test_a_model_too_large_for_even_one_item_is_not_served(configure):
    config = configure(
        source="tests.repository.test_repository:AtMostThree", input_shape=[2], reproducible=True
    )
    with pytest.raises(LoadError, match=r"the memory does not suffice for a batch of 4 on cpu"):
        await repository_of(config).load()


async def test_a_reproducible_model_answers_alike_in_any_company(configure):
    model = {"source": "tests.repository.test_repository:wide", "batching": {"max_batch_size": 8}}
    repository = repository_of(configure(**model, reproducible=True))
    await repository.load()
    (version,) = repository.versions
    assert list(version.forward_s) == [1, 8]
    item = torch.randn(64)
    alone = await ask(repository, item)
    others = [ask(repository, torch.randn(64)) for _ in range(5)]
    assert (await asyncio.gather(*others, ask(repository, item)))[-1] == alone
    await repository.close()


async def test_a_promise_to_be_reproducible_that_cannot_be_kept_is_refused(configure):
    config = configure(source=f"{__name__}:Scaled", input_shape=[2], reproducible=True)
    with pytest.raises(LoadError, match=r"tiny: reproducible: true cannot be kept here") as caught:
        await repository_of(config).load()
    assert "batching.max_batch_size" in str(caught.value)


async def test_a_promise_to_be_reproducible_that_cannot_be_verified_is_refused(configure):
    config = configure(source="tests.models:Double", reproducible=True)
    with pytest.raises(LoadError, match=r"cannot be verified, .*: set input_shape"):
        await repository_of(config).load()


async def test_labels_that_do_not_fit_the_model_are_found_out_at_the_start(configure):
    config = configure(
        source="tests.models:MeanColour", task="image-classification", labels=["red", "green"]
    )
    with pytest.raises(LoadError, match="there are 2 labels"):
        await repository_of(config).load()


async def test_a_model_whose_input_nobody_knows_is_served_without_warm_up(configure, caplog):
    repository = repository_of(configure(source="tests.models:Double"))
    await repository.load()
    assert "set input_shape" in caplog.text
    assert await ask(repository, torch.ones(2)) == [2.0, 2.0]
    await repository.close()


async def test_names_and_versions_are_found_the_first_listed_by_default(configure):
    first = configure().models[0]
    models = [
        first,
        first.model_copy(update={"version": "2"}),
        first.model_copy(update={"name": "other"}),
    ]
    repository = ModelRepository(models)
    await repository.load()
    found = [
        repository.find(),
        repository.find("tiny"),
        repository.find("tiny", "2"),
        repository.find("other"),
    ]
    assert [(model.name, model.version) for model in found] == [
        ("tiny", "1"),
        ("tiny", "1"),
        ("tiny", "2"),
        ("other", "1"),
    ]
    with pytest.raises(NotFound, match="no model 'tony'; served are other, tiny"):
        repository.find("tony")
    with pytest.raises(NotFound, match="no version '3'; it has 1, 2"):
        repository.find("tiny", "3")
    await repository.close()


async def test_a_version_whose_loop_has_ended_is_not_ready(configure):
    repository = repository_of(configure())
    await repository.load()
    (version,) = repository.versions
    loop = version.batcher._loop
    assert loop is not None
    loop.cancel()
    await asyncio.wait([loop])
    assert not repository.ready
    with pytest.raises(NotReady, match="the batching loop has ended"):
        repository.find().check_ready()
    await repository.close()


@pytest.mark.parametrize(("shape", "runner"), [([10], "inline"), ([-1], "thread")])
async def test_where_shapes_vary_the_example_tells_too_little(
    configure, monkeypatch, shape, runner
):
    monkeypatch.setattr("batchserve.runners.warmup.LOOP_BUDGET_S", 60)
    repository = repository_of(configure(source="tests.models:Double", input_shape=shape))
    await repository.load()
    assert repository.find().batcher.runner.name == runner
    await repository.close()


async def test_the_answers_in_half_precision_stay_close(configure):
    plain, other = repository_of(configure()), repository_of(configure(precision="bf16"))
    await plain.load()
    await other.load()
    for item in torch.linspace(-1, 1, 30).view(3, 10):
        assert await ask(other, item) == pytest.approx(await ask(plain, item), abs=0.02)
    await plain.close()
    await other.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "channels_last: "),
        ({"channels_last": False}, None),
        ({"channels_last": True}, None),
        ({"reproducible": True}, None),
    ],
)
async def test_the_order_of_images_is_tried_where_nobody_states_it(
    configure, caplog, changes, said
):
    source = "tests.loading.models:Convolved"
    repository = repository_of(configure(source=source, input_shape=[3, 8, 8], **changes))
    with caplog.at_level("INFO"):
        await repository.load()
    assert ("channels_last" in caplog.text) is (said is not None)
    await repository.close()


async def test_a_model_that_cannot_have_the_order_that_is_stated_says_what_to_leave_out(configure):
    config = configure(source=f"{__name__}:Views", input_shape=[3, 8, 8], channels_last=True)
    with pytest.raises(LoadError, match=r"view.*; leave out channels_last to see whether"):
        await repository_of(config).load()


class AtMostTwoImages(AtMostThree):
    """Has convolutions, and memory for less than are tried."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat([batch, batch]))[: len(batch)]


async def test_the_order_is_left_where_the_memory_does_not_suffice_to_try_it(configure, caplog):
    source = f"{__name__}:AtMostTwoImages"
    repository = repository_of(configure(source=source, input_shape=[3, 8, 8]))
    await repository.load()
    assert repository.find().max_batch_size == 1
    assert repository.find().state is State.READY
    await repository.close()


class Views(nn.Module):
    """Needs its images plane by plane."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(batch).view(len(batch), -1)
        return out
