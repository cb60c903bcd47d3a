"""Sampling agrees with diffusers' own pipeline and leaves the model as it was."""

import math
import types

import pytest
import torch
from diffusers import StableDiffusionPipeline

from magictailor.backbones.stable_diffusion.backbone import ddim_scheduler
from magictailor.errors import InputError
from magictailor.sampling import Sketcher, sample
from magictailor.training import Training

PROMPT = "<v0> with <v1>"


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_latents_are_those_of_diffusers_pipeline(make_model, config, parts, prediction_type):
    model = make_model(config, prediction_type=prediction_type)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ours = sample(model, [PROMPT], noise, steps=7, guidance=5.0, negative_prompt="blurry")
    known = model.prompts.encode([PROMPT, "blurry"]).hidden.detach()
    pipeline = StableDiffusionPipeline(
        parts()[2], None, None, model.unet, ddim_scheduler(model.schedule), None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt_embeds=known[:1],
        negative_prompt_embeds=known[1:],
        latents=noise,
        num_inference_steps=7,
        guidance_scale=5.0,
        output_type="latent",
        height=64,
        width=64,
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4 * theirs.abs().max().item())


def test_noise_levels_are_the_models(make_model, config):
    model = make_model(config)
    scheduler = ddim_scheduler(model.schedule)
    assert torch.allclose(scheduler.alphas_cumprod, model.schedule.alphas_cumprod, rtol=1e-3)
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]


def test_it_leaves_training_as_it_was(make_model, references, config):
    plain, looked_at = (Training(make_model(config), references, config) for _ in range(2))
    state = torch.random.get_rng_state()
    for _ in range(config.total_steps):
        plain.step()
        looked_at.step()
        sketcher = Sketcher(looked_at.model, lambda latents: latents[:, :3], 64, steps=2)
        sketcher.picture(sketcher.latents(PROMPT, seed=0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert looked_at.model.unet.training and torch.is_grad_enabled()
    assert all(torch.equal(plain.lora[name], looked_at.lora[name]) for name in plain.lora)
    assert all(torch.equal(plain.tokens[key], looked_at.tokens[key]) for key in plain.tokens)


def test_what_is_raised_after_a_step_stops_it_at_once_and_the_capture_goes_on(make_model, config):
    model = make_model(config)
    model.capture.start(torch.tensor([[4]]))
    steps = []

    def stop():
        steps.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, [PROMPT], torch.randn(1, 4, 8, 8), steps=5, after_step=stop)
    assert len(steps) == 1
    with torch.no_grad():
        model.unet(torch.randn(1, 4, 8, 8), 3, model.prompts.encode([PROMPT]).hidden)
    assert model.capture.mean_map((8, 8)).shape == (1, 4, 4)


def test_the_prompt_and_the_seed_count(make_model, config):
    sketcher = Sketcher(make_model(config), lambda latents: latents[:, :3], 64, steps=3)
    first, again = (sketcher.latents(PROMPT, seed=0) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, sketcher.latents(PROMPT, seed=1), atol=1e-2)
    assert not torch.equal(first, sketcher.latents("<v1>", seed=0))


@pytest.mark.parametrize(
    ("latents", "decode", "at_fault"),
    [
        (torch.zeros(1, 4, 8, 8), lambda latents: latents[:, :3] + math.inf, "vae"),
        (torch.full((1, 4, 8, 8), math.nan), lambda latents: latents[:, :3], "model"),
    ],
)
def test_a_picture_that_would_be_black_is_refused(latents, decode, at_fault):
    model = types.SimpleNamespace(unscaled=lambda latents: latents)
    with pytest.raises(InputError, match=f"^{at_fault}: what it computes is not finite"):
        Sketcher(model, decode, 64).picture(latents)
