import dataclasses

import pytest
import torch

from magictailor.attention import coarse_size, watched_layers
from magictailor.trainer import Training


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
        model.capture.start(torch.tensor([4, 4]))
        watched = model.unet(*inputs).sample
        assert torch.allclose(plain, watched, atol=1e-5)
        assert model.capture.mean_map().shape == (2, 4, 4)


def test_nothing_is_captured_while_paused(make_model, references, config):
    model = make_model(config)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 77, 64)
    model.capture.start(torch.tensor([4]))
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
