import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pli_train.core.learning_rate import at_step
from pli_train.optim.config import OptimConfig

optims = st.builds(
    OptimConfig,
    lr=st.just(1.0),
    lr_end=st.floats(0, 1),
    schedule=st.sampled_from(["linear", "cosine", "constant", "wsd"]),
    warmup_ratio=st.floats(0, 0.5),
    decay_ratio=st.floats(0, 0.5),
)


@given(optims, st.integers(1, 300))
def test_rises_to_lr_then_never_rises_again(optim, total):
    rates = [at_step(step, total, optim) for step in range(total)]
    warmup = round(optim.warmup_ratio * total)
    assert all(0 < rate <= 1 for rate in rates) or optim.lr_end == 0
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if warmup:
        assert rates[warmup - 1] == 1
    assert all(rate >= optim.lr_end - 1e-12 for rate in rates[warmup:])


def test_linear_and_cosine_equal_the_schedulers_of_transformers():
    """Ours starts warm-up at one step's worth instead of zero and so runs one step ahead during it; after it, equal."""
    import torch
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for name, make in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        scheduler = make(optimizer, num_warmup_steps=10, num_training_steps=100)
        optim = OptimConfig(lr=0.5, lr_end=0, schedule=name, warmup_ratio=0.1)
        for step in range(99):
            theirs = optimizer.param_groups[0]["lr"]
            assert math.isclose(at_step(step - 1 if step < 10 else step, 100, optim), theirs, abs_tol=1e-12)
            optimizer.step()
            scheduler.step()


def test_wsd_holds_then_falls_to_the_end_value():
    optim = OptimConfig(lr=1.0, lr_end=0.1, schedule="wsd", warmup_ratio=0.1, decay_ratio=0.2)
    rates = [at_step(step, 100, optim) for step in range(101)]
    assert set(rates[9:81]) == {1.0}
    assert rates[100] == pytest.approx(0.1)
    assert rates[90] == pytest.approx(0.55)
