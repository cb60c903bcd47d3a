"""Every equation of the method against numbers worked out by hand."""

import math

import pytest
import torch

from magictailor.attention_loss import attention_loss
from magictailor.backbones.attention_capture import token_column
from magictailor.backbones.stable_diffusion.schedule import NoiseSchedule, scaled_linear_schedule
from magictailor.balancing import (
    DS_BAL,
    WARM_UP,
    balance,
    masked_error,
    mean_per_reference,
    update_momentum,
)
from magictailor.degradation import degradation_weight, degrade


@pytest.mark.parametrize(
    ("progress", "weight"),
    # 0.5 * (1 - 0.9 ** 32) and 0.5 * (1 - 0.98 ** 32), worked out with logarithms
    [(0.0, 0.5), (0.9, 0.4828316), (0.98, 0.2380584), (1.0, 0.0)],
)
def test_degradation_schedule_eq_5(progress, weight):
    assert degradation_weight(round(progress * 500), 500, 0.5, 32) == pytest.approx(weight, abs=2e-7)


def test_degradation_eq_4_touches_only_what_is_outside_the_mask():
    images = torch.full((1, 3, 1, 3), 0.5)
    masks = torch.tensor([1.0, 0.0, 0.5]).view(1, 1, 1, 3)
    noise = torch.full((1, 3, 1, 3), -2.0)
    degraded = degrade(images, masks, noise, 0.4)
    assert torch.allclose(degraded[0, 0, 0], torch.tensor([0.5, 0.5 - 0.8, 0.5 - 0.4]))


def test_degradation_stays_in_the_range_of_an_image():
    noise = torch.tensor([10.0, -10.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    degraded = degrade(torch.zeros(1, 3, 1, 2), torch.zeros(1, 1, 1, 2), noise, 0.5)
    assert degraded[0, 0, 0].tolist() == [1.0, -1.0]


def test_masked_error_is_the_mean_over_the_full_area():
    target = torch.zeros(2, 1, 2, 2)
    prediction = torch.tensor([[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0]]).view(2, 1, 2, 2)
    masks = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]]).view(2, 1, 2, 2)
    # (1 + 16) / 4 and (2 * 0.5)^2
    assert masked_error(prediction, target, masks).tolist() == [4.25, 1.0]


def test_losses_are_averaged_per_reference_with_unequal_counts():
    losses, owners = torch.tensor([1.0, 3.0, 10.0, 2.0]), torch.tensor([0, 0, 1, 0])
    assert mean_per_reference(losses, owners, 2).tolist() == [2.0, 10.0]


OWNERS, SAMPLES = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0.0, 2.0, 4.0, 5.0, 6.0, 7.0])
# L_diff by which reference 0, 1 or 2 is the worst learned; in none of them does it hold the largest sample
WORST = {
    0: torch.tensor([3.0, 3.0, 2.0, 0.0, 0.0, 4.0]),
    1: torch.tensor([0.0, 5.0, 4.0, 0.0, 0.0, 5.0]),
    2: torch.tensor([0.0, 5.0, 2.0, 3.0, 3.0, 3.0]),
}


@pytest.mark.parametrize(("worst", "mean"), [(0, 1.0), (1, 4.0), (2, 6.0)])
def test_min_max_eq_6_minimises_the_mean_of_the_largest_alone(worst, mean):
    minimised, _ = balance(WORST[worst], OWNERS, 3, DS_BAL)
    assert (minimised * SAMPLES).sum().item() == pytest.approx(mean)


@pytest.mark.parametrize(("worst", "mean"), [(0, 5.0), (1, 3.5), (2, 2.5)])
def test_preserving_eq_7_covers_all_the_others(worst, mean):
    _, held = balance(WORST[worst], OWNERS, 3, DS_BAL)
    assert (held * SAMPLES).sum().item() == pytest.approx(mean)
    assert held[OWNERS == worst].tolist() == [0.0] * int((OWNERS == worst).sum())


def test_preserving_holds_nothing_when_there_is_no_other():
    minimised, held = balance(torch.tensor([1.0, 2.0]), torch.tensor([0, 0]), 1, DS_BAL)
    assert held.tolist() == [0.0, 0.0]
    assert minimised.tolist() == [0.5, 0.5]


def test_in_the_warm_up_every_sample_counts_alike_eq_1():
    minimised, held = balance(WORST[0], OWNERS, 3, WARM_UP)
    assert minimised.tolist() == pytest.approx([1 / 6] * 6)
    assert held.tolist() == [0.0] * 6


def test_momentum_eq_8():
    momentum, online = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, -2.0])}
    update_momentum(momentum, online, 0.99)
    assert momentum["w"].tolist() == pytest.approx([1.02, 1.96])
    assert online["w"].tolist() == [3.0, -2.0]


def test_attention_loss_divides_by_the_maximum_of_each_image():
    attention = torch.tensor([[[0.1, 0.2]], [[0.5, 0.0]]])
    masks = torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]]])
    # (0.5^2 + 0) / 2 and (0 + 1) / 2
    assert attention_loss(attention, masks).tolist() == pytest.approx([0.125, 0.5])


def test_token_column_is_one_column_of_the_softmax_averaged_over_heads():
    query = torch.tensor([[[[1.0]], [[2.0]]]])  # 2 heads, 1 query
    key = torch.tensor([[[[0.0], [1.0]], [[0.0], [1.0]]]])
    column = token_column(query, key, torch.tensor([1]), scale=2.0)
    first, second = math.exp(2) / (1 + math.exp(2)), math.exp(4) / (1 + math.exp(4))
    assert column.item() == pytest.approx((first + second) / 2)


def test_noising_and_both_targets():
    schedule = NoiseSchedule(torch.tensor([1.0, 0.64]))
    latents, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0)
    timesteps = torch.tensor([1])
    assert schedule.add_noise(latents, noise, timesteps).item() == pytest.approx(0.8 * 2 + 0.6 * 3)
    assert schedule.target(latents, noise, timesteps) is noise
    velocity = NoiseSchedule(schedule.alphas_cumprod, "v_prediction").target(latents, noise, timesteps)
    assert velocity.item() == pytest.approx(0.8 * 3 - 0.6 * 2)


def test_stable_diffusions_betas():
    schedule = scaled_linear_schedule()
    assert schedule.timesteps == 1000
    assert schedule.alphas_cumprod[0].item() == pytest.approx(1 - 0.00085)
    ratio = schedule.alphas_cumprod[-1] / schedule.alphas_cumprod[-2]
    assert ratio.item() == pytest.approx(1 - 0.012, abs=1e-6)
