"""A checkpoint in diffusers' layout whose networks have a few thousand weights beside CLIP's table."""

from __future__ import annotations

import json
import pathlib

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def make_tiny_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """Write a Stable Diffusion 1.x with random weights, the same at every call, into an empty folder; the folder."""
    blocks = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=64, num_hidden_layers=1, num_attention_heads=12, vocab_size=49408,
        bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {
            "unet": UNet2DConditionModel(
                block_out_channels=(32, 64), layers_per_block=1, down_block_types=blocks,
                up_block_types=tuple(b.replace("Down", "Up") for b in blocks), cross_attention_dim=768,
                attention_head_dim=4, norm_num_groups=8,
            ),
            "text_encoder": CLIPTextModel(text),
            "vae": AutoencoderKL(
                block_out_channels=(16, 16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=8,
            ),
        }  # fmt: skip
    for name, part in parts.items():
        part.half().save_pretrained(folder / name, variant="fp16")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    _write_vocabulary(folder / "tokenizer")
    return folder


def _write_vocabulary(folder: pathlib.Path) -> None:
    """CLIP's kind of vocabulary, with letters for words, and as large: diffusers adds new words after its end."""
    letters = "abcdefghijklmnopqrstuvwxyz,."
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += [f"unused{number}" for number in range(len(pieces), 49406)]
    vocabulary = {piece: n for n, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
