"""Drawing a token, against counting by hand."""

import pytest
import torch

from einsearch_cli.errors import RunFailedError, SpecError
from einsearch_cli.generation import Sampling

LOGITS = torch.tensor([1.0, 3.0, -0.5, 2.0, 0.2])
EVENLY = (torch.arange(20_000) + 0.5) / 20_000


def shares(sampling: Sampling, logits: torch.Tensor = LOGITS) -> torch.Tensor:
    """How often each token is drawn if the random numbers lie evenly between 0 and 1."""
    tokens = sampling.choose(logits.expand(len(EVENLY), -1), EVENLY)
    return torch.bincount(tokens, minlength=len(logits)) / len(EVENLY)


def expected(logits: torch.Tensor, kept: set[int]) -> torch.Tensor:
    weights = torch.tensor([logits[i].exp() if i in kept else 0.0 for i in range(len(logits))])
    return weights / weights.sum()


ALL = {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("sampling", "scaled", "kept"),
    [
        (Sampling(), LOGITS, ALL),
        (Sampling(temperature=0.5), 2 * LOGITS, ALL),
        (Sampling(top_k=2), LOGITS, {1, 3}),
        (Sampling(top_k=50), LOGITS, ALL),
        (Sampling(top_p=0.9), LOGITS, {0, 1, 3}),  # 0.608, 0.832, 0.914
        (Sampling(top_p=0.5), LOGITS, {1}),
        (Sampling(top_p=1.0), LOGITS, ALL),
        (Sampling(temperature=2, top_k=3, top_p=0.7), LOGITS / 2, {1, 3}),  # 0.506, 0.814 of the first three
    ],
    ids=str,
)
def test_tokens_come_up_with_their_probabilities(sampling: Sampling, scaled: torch.Tensor, kept: set[int]) -> None:
    torch.testing.assert_close(shares(sampling), expected(scaled, kept), atol=2e-4, rtol=0)


def test_temperature_0_takes_the_likeliest() -> None:
    assert shares(Sampling(temperature=0)).tolist() == [0, 1, 0, 0, 0]


def test_rows_are_drawn_apart() -> None:
    logits = torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert Sampling(top_k=1).choose(logits, torch.tensor([0.1, 0.5, 0.999])).tolist() == [1, 0, 2]
    assert Sampling().choose(logits, torch.tensor([0.5, 0.5, 0.5])).tolist() == [1, 0, 2]


def test_the_largest_number_below_one_gives_a_token() -> None:
    assert Sampling(top_p=0.5).choose(LOGITS[None], torch.tensor([1 - 2**-24])).tolist() == [1]
    assert Sampling().choose(LOGITS[None], torch.tensor([1 - 2**-24])).tolist() == [4]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_logits_are_refused(value: float) -> None:
    with pytest.raises(
        RunFailedError, match="logits are not finite: its weights are damaged, or its training diverged"
    ):
        Sampling().choose(torch.tensor([[0.0, value]]), torch.tensor([0.5]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature -1: it has to be 0 or more, and finite"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_k": 0}, "top-k 0: at least 1 token has to remain"),
        ({"top_p": 0.0}, "top-p 0: it is a probability, above 0 and at most 1\ntry: give for example 0.9"),
        ({"top_p": 1.1}, "top-p 1.1"),
    ],
)
def test_impossible_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Sampling(**settings)
