"""Searched values as MLflow keeps them, read back."""

import pytest

from tune.entries import parameter_text
from tune.report.material import parsed
from tune.space import Choices


@pytest.mark.parametrize(
    "choices",
    [
        [0.5, 1.0, 2.0],
        [1, 2, 4],
        [1e-5, 1e-3, 1e20],
        [0.123456789, 0.2],
        [False, True],
        ["none", "inverse"],
        ["whisper+roberta", "hub", "1"],
    ],
)
def test_a_choice_comes_back_as_what_it_was(choices):
    for choice in choices:
        again = parsed(Choices(choices=choices), parameter_text(choice))
        assert again == choice
        assert type(again) is type(choice)


def test_what_is_no_choice_any_more_stays_a_text():
    assert parsed(Choices(choices=[1, 2]), "3") == "3"
