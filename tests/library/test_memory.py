"""The ladder of plans: the same result on every rung, the fastest that fits, and the next one where memory runs out."""

import dataclasses

import pytest
import torch

from magictailor.backbones.placement import is_away, repeat_layers
from magictailor.backbones.precision import has_fused_adam, precision_for
from magictailor.config import MEMORY, TailorConfig, memory_of
from magictailor.memory import (
    FASTEST,
    GIB,
    Appetite,
    MemoryPlan,
    Step,
    Weights,
    choose,
    is_out_of_memory,
    ladder,
    predicted_peak,
    smaller,
)
from magictailor.training import Training

ALL_AWAY = MemoryPlan("smallest", 1, checkpointing=True, others_away=True, network_away=True)
RUNGS = [
    MemoryPlan("fast", 2),
    MemoryPlan("fast", 1),
    MemoryPlan("balanced", 0, checkpointing=True),
    MemoryPlan("balanced", 1, checkpointing=True),
    MemoryPlan("small", 3, checkpointing=True, others_away=True),
    ALL_AWAY,
]
STEP = Step(
    pictures=6,
    references=2,
    area=1.0,
    width=2,
    encoding_width=2,
    trained=10_000_000,
    weights=Weights(4 * GIB, GIB, GIB, GIB // 4),
    appetite=Appetite(whole=6.0, between=0.5, layers=1.0, encoding=1.0, text=0.0),
)


def test_every_rung_gives_the_same_losses_and_gradients(make_model, references, config):
    config = dataclasses.replace(
        config,
        phase1_train_steps=1,
        phase2_train_steps=2,
        adam_epsilon=1e-3,
        phase1_learning_rate=0.05,
        phase2_learning_rate=0.02,
        lambda_preservation=20.0,
        lambda_attention=0.5,
    )
    fastest = Training(make_model(config), references, config, plan=FASTEST)
    others = [Training(make_model(config), references, config, plan=plan) for plan in RUNGS]
    for _ in range(config.total_steps):
        state = fastest.state_dict()
        expected = fastest.step()
        for other in others:
            # from the same state: what rounding has moved in earlier steps is not what is compared
            other.load_state_dict(state)
            report = other.step()
            assert report.loss == pytest.approx(expected.loss, rel=1e-4), other.memory
            assert report.diffusion == pytest.approx(expected.diffusion, rel=1e-4), other.memory
            assert report.attention == pytest.approx(expected.attention, rel=1e-4), other.memory
            assert report.preservation == pytest.approx(expected.preservation, rel=1e-3, abs=1e-9), other.memory
            for name, parameter in (fastest.lora | fastest.tokens).items():
                found = (other.lora | other.tokens)[name].grad
                assert (found - parameter.grad).abs().max() <= 1e-4 * parameter.grad.abs().max() + 1e-9, name


def test_repeating_layers_changes_no_bit(make_model, references, config):
    fastest, repeating = (
        Training(make_model(config), references, config, plan=plan)
        for plan in (FASTEST, MemoryPlan("balanced", checkpointing=True))
    )
    assert list(fastest) == list(repeating)
    trained = [training.lora | training.tokens for training in (fastest, repeating)]
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


def test_layers_are_repeated_by_a_network_that_only_knows_its_own_way_to_do_so(parts, monkeypatch):
    """As those of diffusers before 0.33."""
    unet, *_ = parts()
    own_way = type(unet).enable_gradient_checkpointing
    monkeypatch.setattr(type(unet), "enable_gradient_checkpointing", lambda self: own_way(self))
    repeat_layers(unet, True)
    assert unet.is_gradient_checkpointing
    repeat_layers(unet, False)
    assert not unet.is_gradient_checkpointing


def test_no_rung_takes_more_pictures_at_a_time_than_it_says(make_model, references, config):
    config = dataclasses.replace(config, phase1_train_steps=1)
    training = Training(make_model(config), references, config, plan=MemoryPlan("fast", 2))
    batches = []
    training.model.unet.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    training.step()
    assert batches == [2, 2, 1]
    batches.clear()
    report = training.step()
    # to find the worst; the momentum network, which never sees the worst; to learn
    held = len(references[1 - report.worst])
    assert batches == [2, 2, 1, *[2] * (held // 2), *[1] * (held % 2), 2, 2, 1]


def test_pictures_are_encoded_in_parts_that_keep_an_autoencoder_busy(make_model, references, config, monkeypatch):
    training = Training(make_model(config), references, config)
    monkeypatch.setattr("magictailor.objective.ENCODED_PIXELS", 2 * training.resolution**2)
    batches = []
    training.model.autoencoder.encoder.register_forward_pre_hook(lambda module, inputs: batches.append(len(inputs[0])))
    training.step()
    assert batches == [2, 2, 1]


def test_what_is_away_is_on_no_device_between_its_uses(make_model, references, config):
    model = Training(make_model(config), references, config, plan=ALL_AWAY).model
    layers = [m for m in model.unet.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    frozen = [layer for layer in layers if not layer.weight.requires_grad]
    assert len(frozen) > 20 and all(is_away(layer) and layer.weight.is_meta for layer in frozen)


@pytest.mark.parametrize("raised", [torch.OutOfMemoryError("no memory"), RuntimeError("MPS backend out of memory")])
@pytest.mark.parametrize("at", [1, 5])
def test_a_step_that_runs_out_of_memory_is_made_again_by_the_next_plan(make_model, references, config, at, raised):
    training = Training(make_model(config), references, config)
    plain = Training(make_model(config), references, config)
    for _ in range(at - 1):
        training.step(), plain.step()
    plain.model.arrange(MemoryPlan("fast", 2))
    drawn = []
    predict = training.model.predict

    def out_of_memory_over_2(noisy, timesteps, *rest, **named):
        drawn.append(timesteps)
        if len(noisy) > 2:
            raise raised
        return predict(noisy, timesteps, *rest, **named)

    training.model.predict = out_of_memory_over_2
    report, expected = training.step(), plain.step()
    assert str(training.memory).endswith("; there was not enough for 'fast, 3 at a time'")
    assert report == expected
    assert all(torch.equal(rows, plain.lora[name]) for name, rows in training.lora.items())
    assert torch.equal(drawn[0], torch.cat(drawn[2:5])), "other draws than in the first try"
    training.step()
    assert training.memory.plan == MemoryPlan("fast", 2), "a plan that fits is kept"


def test_when_no_plan_is_left_memory_is_told_and_the_training_is_as_before_the_step(make_model, references, config):
    training = Training(make_model(config), references, config)
    training.step()
    before = training.state_dict()

    def never(*given, **named):
        raise torch.OutOfMemoryError("no memory")

    training.model.predict = never
    with pytest.raises(torch.OutOfMemoryError):
        training.step()
    assert training.whole and training.steps_done == 1
    assert all(torch.equal(tensor, training.lora[name]) for name, tensor in before["lora"].items())


def test_another_error_is_not_taken_for_one_of_memory(make_model, references, config):
    training = Training(make_model(config), references, config)

    def broken(*given, **named):
        raise RuntimeError("shapes do not fit")

    training.model.predict = broken
    with pytest.raises(RuntimeError, match="shapes"):
        training.step()
    assert training.memory.plan == FASTEST
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_ladder_goes_down():
    plans = ladder(6)
    peaks = [predicted_peak(plan, STEP) for plan in plans]
    assert plans[0] == FASTEST and plans[-1] == ALL_AWAY
    assert [plan.at_once for plan in plans if plan.name == "balanced"] == [0, 3, 2, 1]
    for name in MEMORY[1:]:
        of_rung = [peak for plan, peak in zip(plans, peaks, strict=True) if plan.name == name]
        assert of_rung == sorted(of_rung, reverse=True) and of_rung
    assert not any(plan.others_away for plan in ladder(6, away=False))


@pytest.mark.parametrize(
    ("free", "name", "at_once"),
    [
        (80, "fastest", 0),
        (30, "fast", 3),
        (11.5, "balanced", 2),
        (9.5, "small", 1),
        (1, "smallest", 1),
        (None, "fastest", 0),
    ],
)
def test_auto_takes_the_fastest_plan_that_fits(free, name, at_once):
    choice = choose("auto", STEP, None if free is None else int(free * GIB))
    assert (choice.plan.name, choice.plan.at_once) == (name, at_once)
    assert choice.fits or free == 1


def test_a_rung_that_was_chosen_is_taken_whatever_fits():
    assert choose("small", STEP, 80 * GIB).plan == MemoryPlan("small", 0, True, True)
    assert choose("fastest", STEP, GIB).plan == FASTEST
    assert str(choose("balanced", STEP, 12 * GIB)) == "memory 'balanced, 2 at a time', about 10.2 of 12.0 GiB"
    assert choose("smallest", STEP, 80 * GIB, away=False).plan == MemoryPlan("balanced", 1, True)


def test_of_a_family_nobody_has_counted_the_next_plan_is_tried():
    step = dataclasses.replace(STEP, appetite=None)
    first = choose("auto", step, GIB)
    assert first.plan == FASTEST and str(first) == "memory 'fastest'"
    assert smaller(first, step).plan == MemoryPlan("fast", 3)
    assert choose("fast", step, GIB).plan == MemoryPlan("fast", 1)


@pytest.mark.parametrize(
    ("switches", "memory"),
    [
        ({}, "auto"),
        ({"low_memory": False, "gradient_checkpointing": False}, "auto"),
        ({"low_memory": True, "gradient_checkpointing": False}, "fast"),
        ({"gradient_checkpointing": True}, "balanced"),
        ({"low_memory": True, "gradient_checkpointing": True}, "small"),
    ],
)
def test_the_switches_of_earlier_versions_mean_a_rung(switches, memory):
    assert TailorConfig.from_dict({"seed": 3, **switches}) == TailorConfig(seed=3, memory=memory)
    assert memory_of(switches.get("low_memory", False), switches.get("gradient_checkpointing", False)) == memory


@pytest.mark.parametrize(
    ("device", "native", "dtype", "fused"),
    [
        ("cuda", True, torch.bfloat16, True),
        ("cuda", False, torch.float16, True),  # T4 and RTX 20 emulate it
        ("xpu", None, torch.bfloat16, False),
        ("mps", None, torch.float32, False),
        ("privateuseone", None, torch.float32, False),
        ("cpu", None, torch.float32, True),
    ],
)
def test_auto_precision_on_the_machines_people_have(monkeypatch, device, native, dtype, fused):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert precision_for("auto", torch.device(device)) == dtype
    assert has_fused_adam(torch.device(device)) == fused
