import dataclasses

import pytest

from magictailor.config import TailorConfig, defaults, knobs
from magictailor.errors import InputError


def test_defaults_are_the_papers():
    config = TailorConfig()
    assert (config.phase1_train_steps, config.phase2_train_steps) == (200, 300)
    assert (config.phase1_learning_rate, config.phase2_learning_rate) == (1e-4, 1e-5)
    assert (config.alpha, config.gamma, config.ema_decay) == (0.5, 32, 0.99)
    assert (config.lambda_preservation, config.lambda_attention, config.lora_rank) == (0.2, 1e-2, 32)
    assert config.total_steps == 500


def test_every_default_lies_in_its_range_and_every_field_is_described():
    for name, knob in knobs().items():
        assert knob.help.endswith("."), name
        if isinstance(defaults()[name], str):
            assert defaults()[name] in knob.choices
        else:
            assert knob.low <= defaults()[name] <= knob.high


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phase1_train_steps", -1),
        ("phase2_learning_rate", 0.0),
        ("lora_rank", 0),
        ("lora_rank", 2.5),
        ("ema_decay", 1.1),
        ("resolution", 500),
        ("gamma", float("nan")),
        ("alpha", "strong"),
        ("seed", True),
        ("scale_lr", 1),
        ("mixed_precision", "fp8"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(field, value):
    with pytest.raises(InputError, match=rf"^{field}: ") as caught:
        TailorConfig(**{field: value})
    assert caught.value.field == field


def test_both_phases_skipped_is_refused():
    with pytest.raises(InputError, match="nothing would be learned"):
        TailorConfig(phase1_train_steps=0, phase2_train_steps=0)


def test_it_is_frozen_and_survives_a_dict():
    config = TailorConfig(seed=2**64 - 1, alpha=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    assert TailorConfig(**config.to_dict()) == config
    assert isinstance(config.alpha, float)
