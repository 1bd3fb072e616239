import pytest

from batchserve.errors import LoadError
from tests.loading.models import Small, assert_same


@pytest.mark.parametrize("name", ["make", "Small", "SHARED"])
def test_a_function_a_class_and_an_instance(load, name):
    assert isinstance(load(source=f"tests.loading.models:{name}"), Small)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SEVEN", "'tests.loading.models:SEVEN' is neither a torch.nn.Module nor callable"),
        ("gives_seven", "'tests.loading.models:gives_seven' returned int, not a torch.nn.Module"),
        (
            "fails",
            (
                "'tests.loading.models:fails' failed when it was called without arguments: "
                "RuntimeError: no such luck"
            ),
        ),
        ("refuses", "the licence is missing"),
        (
            "mak",
            "'tests.loading.models:mak': tests.loading.models has no 'mak'; did you mean 'make'?",
        ),
    ],
)
def test_what_makes_no_module_is_refused_below_the_models_name(refused, name, reason):
    assert refused(source=f"tests.loading.models:{name}") == f"model tiny: {reason}"


def test_a_callable_that_needs_arguments_is_refused_with_which(refused):
    message = refused(source="tests.loading.models:needs_an_argument")
    assert "failed when it was called without arguments: TypeError: " in message
    assert "'classes'" in message


def test_the_cause_of_a_refusal_is_kept_for_the_log(load):
    with pytest.raises(LoadError) as caught:
        load(source="tests.loading.models:fails")
    assert isinstance(caught.value.__cause__, LoadError)
    assert isinstance(caught.value.__cause__.__cause__, RuntimeError)


def test_a_callable_with_weights(load, save, trained):
    weights = save("weights.pt", trained.state_dict())
    assert_same(load(source="tests.loading.models:make", weights=weights), trained)


def test_two_versions_of_one_instance_keep_their_own_weights(load, save, trained):
    other = Small().eval()
    first = load(source="tests.loading.models:SHARED", weights=save("one.pt", trained.state_dict()))
    second = load(source="tests.loading.models:SHARED", weights=save("two.pt", other.state_dict()))
    assert_same(second, other)
    assert_same(first, trained)
