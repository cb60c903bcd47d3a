import dataclasses

import pytest
import torch

from magictailor.backbones.attention_capture import coarse_size
from magictailor.backbones.stable_diffusion.attention import SHORT, attend, watched_layers
from magictailor.backbones.stable_diffusion.conditioning import EncodedPrompts
from magictailor.training import Training


def test_only_cross_attention_at_the_coarsest_level_of_down_and_up_blocks_is_watched(parts):
    unet, _, _ = parts()
    assert watched_layers(unet) == [
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.0.attentions.0.transformer_blocks.0.attn2",
        "up_blocks.0.attentions.1.transformer_blocks.0.attn2",
    ]


def test_watching_does_not_change_what_the_unet_says(make_model, config, parts):
    model = make_model(config)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), torch.randn(2, 77, 64)
    with torch.no_grad():
        plain = parts()[0](*inputs).sample
        model.capture.start(torch.tensor([[4], [4]]))
        watched = model.unet(*inputs).sample
        assert torch.allclose(plain, watched, atol=1e-5)
        assert model.capture.mean_map((8, 8)).shape == (2, 4, 4)


def test_nothing_is_captured_while_paused(make_model, references, config):
    model = make_model(config)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 77, 64)
    model.capture.start(torch.tensor([[4]]))
    with torch.no_grad(), model.capture.paused():
        model.unet(*inputs)
    assert model.capture._collected == []


def test_the_attention_loss_alone_moves_the_tokens(make_model, references, config):
    gradients = []
    for weight in (0.0, 1.0):
        weighted = dataclasses.replace(config, lambda_attention=weight)
        training = Training(make_model(weighted), references, weighted)
        training.step()
        gradients.append(training.tokens["clip_l"].grad)
    without, with_attention = gradients
    assert (with_attention - without).abs().max() > 1e-2 * without.abs().max()


@pytest.mark.parametrize(
    ("latents", "positions", "size"),
    [((64, 64), 256, (16, 16)), ((64, 96), 384, (16, 24)), ((9, 13), 12, (3, 4)), ((8, 8), 64, (8, 8))],
)
def test_a_maps_size_follows_from_the_latents_and_its_positions(latents, positions, size):
    assert coarse_size(latents, positions) == size


@pytest.mark.parametrize("keys", [77, SHORT + 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_attention_is_the_weighted_mean_of_the_values(keys, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 40, generator=generator).to(dtype) for n in (20, keys, keys))
    logits = query.double() @ key.double().transpose(-1, -2) / 40**0.5
    expected = torch.softmax(logits, -1) @ value.double()
    found = attend(query, key, value)
    assert found.dtype == dtype
    assert (found - expected).abs().max() < tolerance


def test_pictures_that_share_a_prompt_read_it_once(make_model, config):
    model = make_model(config)
    latents, timesteps, sizes = torch.randn(5, 4, 8, 8), torch.tensor([3, 500, 7, 900, 20]), torch.zeros(5, 6)
    owners = torch.tensor([0, 0, 1, 1, 0])
    projections = [m for name, m in model.unet.named_modules() if name.endswith("attn2.to_k")]
    outcomes = []
    for shared in (True, False):
        prompts = EncodedPrompts(torch.randn(2, 77, 64, generator=torch.Generator().manual_seed(0)), None).detached()
        conditions = prompts.conditions(sizes, owners) if shared else prompts[owners].conditions(sizes)
        read = []
        handles = [
            m.register_forward_hook(lambda _, inputs, __, read=read: read.append(inputs[0])) for m in projections
        ]
        prediction = model.unet(latents, timesteps, **conditions).sample
        prediction.square().sum().backward()
        for handle in handles:
            handle.remove()
        assert {len(hidden) for hidden in read} == {2 if shared else 5}
        outcomes.append((prediction.detach(), prompts.hidden.grad))
    for once, each in zip(*outcomes, strict=True):
        assert torch.allclose(once, each, rtol=1e-4, atol=1e-5)


def test_in_half_precision_all_projections_and_their_loras_read_one_input(make_model, config):
    model = make_model(dataclasses.replace(config, mixed_precision="bf16"))
    layer = next(m for name, m in model.unet.named_modules() if name.endswith("attn1"))
    read = []
    for name, module in layer.named_modules():
        if name in {f"to_{p}" for p in "qkv"} | {f"to_{p}.base_layer" for p in "qkv"}:
            module.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    model.unet(torch.randn(2, 4, 8, 8).bfloat16(), torch.tensor([3, 500]), torch.randn(2, 77, 64).bfloat16())
    assert len(read) == 6
    assert {(id(hidden), hidden.dtype) for hidden in read} == {(id(read[0]), torch.bfloat16)}
