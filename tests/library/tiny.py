"""A Stable Diffusion of a few thousand weights, for tests of the training itself."""

import dataclasses

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from magictailor.backbones.clip import hidden_layer
from magictailor.backbones.stable_diffusion import SD1
from magictailor.backbones.stable_diffusion.backbone import assemble
from magictailor.backbones.stable_diffusion.schedule import scaled_linear_schedule
from magictailor.reference import Reference

START, END, WORDS = 98, 99, 90

TINY = dataclasses.replace(
    SD1, cross_attention_width=64, text_encoders=(dataclasses.replace(SD1.text_encoders[0], pad_token=END),)
)


def tokenizer(text):
    return {"input_ids": [START, *(1 + sum(map(ord, word)) % WORDS for word in text.split()), END]}


def tiny_parts():
    """U-Net, text encoder and autoencoder with the same random weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=blocks,
            up_block_types=tuple(b.replace("Down", "Up") for b in blocks),
            cross_attention_dim=64,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=100,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=START,
                eos_token_id=END,
            )
        )
        autoencoder = AutoencoderKL(
            block_out_channels=(16, 16, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
        )
    return unet.requires_grad_(False), encoder.requires_grad_(False).eval(), autoencoder.requires_grad_(False).eval()


def tiny_model(config, class_words=("tower", "roof"), prediction_type="epsilon", memory_format=torch.contiguous_format):
    unet, encoder, autoencoder = tiny_parts()
    for convolutional in (unet, autoencoder):
        convolutional.to(memory_format=memory_format)
    return assemble(
        family=TINY,
        unet=unet,
        encoders={"clip_l": encoder},
        autoencoder=autoencoder,
        schedule=scaled_linear_schedule(prediction_type),
        tokenizer=tokenizer,
        class_words=class_words,
        config=config,
        device=torch.device("cpu"),
    )


def hidden_states(encoder, ids, layer, *, normalised):
    states = encoder(ids, output_hidden_states=True).hidden_states
    return hidden_layer(encoder, states, layer, normalised)


def tiny_reference(word, count, seed):
    generator = torch.Generator().manual_seed(seed)
    images = tuple(torch.rand(3, 80, 100, generator=generator) for _ in range(count))
    masks = tuple(torch.zeros(80, 100) for _ in range(count))
    for n, mask in enumerate(masks):
        mask[20:60, 20 + 10 * seed : 50 + 10 * seed + 5 * n] = 1.0
    return Reference(word, images, masks)


def uniform(count):
    """Draws timesteps as U-Net families are trained."""
    return lambda batch, generator: torch.randint(0, count, (batch,), generator=generator)
