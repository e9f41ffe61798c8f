import torch
from torch.nn.functional import cross_entropy

from pli_train.core.masking import IGNORED, masked, next_token


def test_each_position_predicts_the_token_after_it():
    tokens = torch.tensor([[5, 6, 7], [8, 9, 5]])
    inputs, labels = next_token(tokens)
    assert inputs.tolist() == tokens.tolist()
    assert labels.tolist() == [[6, 7, -100], [9, 5, -100]]


def test_what_is_not_predicted_is_what_pytorch_ignores():
    assert cross_entropy(torch.zeros(2, 4), torch.tensor([1, IGNORED])) == cross_entropy(
        torch.zeros(1, 4), torch.tensor([1])
    )


def test_masks_have_berts_proportions_and_spare_special_tokens():
    tokens = torch.randint(10, 1000, (200, 500), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 3
    inputs, labels = masked(tokens, 0.15, 4, 1000, [3], seed=1)
    chosen = labels != IGNORED
    assert not chosen[:, 0].any() and torch.equal(labels[chosen], tokens[chosen])
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    assert abs(chosen[:, 1:].double().mean() - 0.15) < 0.005
    assert abs((inputs[chosen] == 4).double().mean() - 0.8) < 0.02
    assert abs((inputs[chosen] == tokens[chosen]).double().mean() - 0.1) < 0.02
