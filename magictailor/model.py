"""Everything a training step computes with, built from the weights of a loaded checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .attention import AttentionCapture, watch_attention
from .config import TailorConfig
from .draws import step_generator
from .errors import InputError
from .families import Family, family_of, require_encoders
from .noise import NoiseSchedule
from .tokens import PromptEncoder, TextEncoder, Tokenizer
from .weights import build_autoencoder, build_text_encoder, build_unet

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.2"]


@dataclass(frozen=True)
class CheckpointWeights:
    """What training takes from a loaded checkpoint.

    Attributes:
        unet: state dict in LDM layout, keys from "input_blocks.0.0.weight".
        text_encoders: state dict of each CLIP text encoder, by embedding key.
        autoencoder: state dict in LDM or TAESD layout.
        schedule: noise levels and prediction type of the U-Net.
        tokenizer: CLIP's, text -> {"input_ids": [start, ..., end]}.
        text_layer: hidden layer the user samples with ("clip skip"), counted from the end; None: the family's.
    """

    unet: Mapping[str, Tensor]
    text_encoders: Mapping[str, Mapping[str, Tensor]]
    autoencoder: Mapping[str, Tensor]
    schedule: NoiseSchedule
    tokenizer: Tokenizer
    text_layer: int | None = None


@dataclass(frozen=True)
class TailorModel:
    """A frozen checkpoint with a LoRA and one new token per reference, which are trained.

    Attributes:
        precision: dtype of autocast; float32 means none.
    """

    family: Family
    unet: UNet2DConditionModel
    prompts: PromptEncoder
    autoencoder: AutoencoderKL | AutoencoderTiny
    schedule: NoiseSchedule
    capture: AttentionCapture
    device: torch.device
    precision: torch.dtype

    def lora(self) -> dict[str, nn.Parameter]:
        """The LoRA's tensors by their name in the U-Net."""
        return {name: p for name, p in self.unet.named_parameters() if ".lora_" in name}

    def autocast(self) -> torch.autocast:
        """The number format in which text encoders and U-Net compute."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)


def precision_for(mixed_precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a `TailorConfig.mixed_precision` on a device; a CPU computes in float32 unless told bf16."""
    if mixed_precision == "no" or (device.type == "cpu" and mixed_precision != "bf16"):
        return torch.float32
    if mixed_precision == "auto":
        return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]


def encoding_dtype(precision: torch.dtype) -> torch.dtype:
    """What pictures are encoded in; float16 overflows in the autoencoders of Stable Diffusion."""
    return torch.float32 if precision == torch.float16 else precision


def build_model(
    weights: CheckpointWeights, class_words: Sequence[str], config: TailorConfig, device: torch.device
) -> TailorModel:
    """Put the trainable copy of a checkpoint together, sharing its tensors where device and dtype allow.

    Args:
        weights: of the loaded checkpoint; never changed.
        class_words: the concept's first, then the components'.
        config: gives the LoRA's rank, the seed of its first values and the precision.

    Raises:
        InputError: the weights are not those of a supported family; names "model", "clip" or "vae".
    """
    family = family_of(weights.unet, weights.schedule.prediction_type)
    precision = precision_for(config.mixed_precision, device)
    require_encoders(family, set(weights.text_encoders))
    encoders = {
        d.key: build_text_encoder(weights.text_encoders[d.key], d, precision, device) for d in family.text_encoders
    }
    width = sum(encoder.config.hidden_size for encoder in encoders.values())
    if width != family.cross_attention_width:
        raise InputError(
            "clip",
            f"its prompts are {width} wide and the model reads {family.cross_attention_width}; "
            "connect MODEL and CLIP of the same checkpoint",
        )
    return assemble(
        family=family,
        unet=build_unet(weights.unet, family, precision, device),
        encoders=encoders,
        autoencoder=build_autoencoder(weights.autoencoder, encoding_dtype(precision), device),
        schedule=weights.schedule,
        tokenizer=weights.tokenizer,
        class_words=class_words,
        config=config,
        text_layer=weights.text_layer,
    )


def assemble(
    *,
    family: Family,
    unet: UNet2DConditionModel,
    encoders: Mapping[str, TextEncoder],
    autoencoder: AutoencoderKL | AutoencoderTiny,
    schedule: NoiseSchedule,
    tokenizer: Tokenizer,
    class_words: Sequence[str],
    config: TailorConfig,
    text_layer: int | None = None,
) -> TailorModel:
    """Add the LoRA and the tokens to frozen parts that already are where they will be trained.

    Args:
        unet, encoders, autoencoder: frozen, on one device, changed in place: the caller gives them away.
        Everything else is as in `build_model` and `CheckpointWeights`.
    """
    device = unet.device
    if device.type == "cuda":
        # no faster on a CPU, and there it would copy weights that are shared with the host
        for convolutional in (unet, autoencoder):
            convolutional.to(memory_format=torch.channels_last)
    _add_lora(unet, config)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return TailorModel(
        family=family,
        unet=unet.train(),
        prompts=PromptEncoder(encoders, family, tokenizer, class_words, text_layer).to(device),
        autoencoder=autoencoder,
        schedule=schedule.to(device),
        capture=watch_attention(unet),
        device=device,
        precision=precision_for(config.mixed_precision, device),
    )


def _add_lora(unet: UNet2DConditionModel, config: TailorConfig) -> None:
    rank = config.lora_rank
    # peft's own first values come from the global generator, which is the host's
    with torch.random.fork_rng():
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_TARGETS))
    for module in unet.modules():
        if isinstance(module, BaseTunerLayer):
            # autocast does it; by way of peft's 32 bits each LoRA would keep a copy of the input of its own
            module.cast_input_dtype_enabled = False
    generator = step_generator(config.seed, 0)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".lora_A." in name:
                parameter.data = parameter.data.float()
                parameter.copy_(torch.empty(parameter.shape).normal_(std=1.0 / rank, generator=generator))
            elif ".lora_B." in name:
                parameter.data = torch.zeros_like(parameter, dtype=torch.float32)
