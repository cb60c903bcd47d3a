"""The generic checkpoint writer: seeded, half precision, and with text conditioning that is not switched off."""

import torch

from tools.checkpoint import SD1, Autoencoder, Family, TextEncoder, UNet, family_state_dict

TINY = Family(
    unet=UNet(context=16, model_channels=32, channel_mult=(1, 2), transformer_depth=(1, 0)),
    text_encoders=(TextEncoder("text.", width=16, layers=1, vocabulary=10),),
    autoencoder=Autoencoder(channels=32, channel_mult=(1, 2), res_blocks=1),
)


def test_same_seed_same_weights_and_another_seed_others():
    first, again, other = family_state_dict(TINY, 3), family_state_dict(TINY, 3), family_state_dict(TINY, 4)
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    assert not torch.equal(first[key], other[key])


def test_weights_are_finite_and_no_layer_is_switched_off():
    for key, tensor in family_state_dict(TINY).items():
        assert tensor.dtype == torch.float16
        assert torch.isfinite(tensor).all(), key
        if key.endswith(".weight"):
            assert tensor.abs().max() > 0, key


def test_shape_follows_the_description():
    weights = family_state_dict(TINY)
    prefix = "model.diffusion_model."
    assert weights[prefix + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"].shape == (32, 16)
    assert prefix + "input_blocks.3.1.proj_in.weight" not in weights  # the second level has no attention
    assert weights[prefix + "output_blocks.3.0.skip_connection.weight"].shape == (32, 64, 1, 1)
    assert weights["text.embeddings.token_embedding.weight"].shape == (10, 16)


def test_sd1_has_cross_attention_on_three_resolutions_and_in_the_middle():
    assert SD1.unet.context == 768 and SD1.unet.model_channels == 320
    assert SD1.unet.transformer_depth == (1, 1, 1, 0)
    assert len(SD1.unet.channel_mult) == 4
