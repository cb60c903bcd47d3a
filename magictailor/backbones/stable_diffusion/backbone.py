"""A U-Net family's checkpoint, as training and drawing use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.func import functional_call

from ...config import TailorConfig
from ...errors import InputError
from ...memory import FASTEST, MemoryPlan, Weights
from .. import autoencoder as autoencoders
from ..attention_capture import AttentionCapture
from ..autoencoder import Autoencoder, build_autoencoder
from ..clip import TextEncoder, build_text_encoder, text_attention
from ..lora import add_lora, lora_of
from ..placement import HOME, place, repeat_layers, sizes
from ..precision import encoding_dtype, precision_for
from ..protocol import CheckpointWeights, Prediction, Prompts, Tokenizer
from .attention import watch_attention
from .conditioning import EncodedPrompts, PromptEncoder
from .family import UNetFamily
from .schedule import NoiseSchedule
from .unet import build_unet

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.2")


@dataclass(eq=False)
class UNetBackbone:
    """See `magictailor.backbones.protocol.Backbone`, which it implements."""

    family: UNetFamily
    unet: UNet2DConditionModel
    prompts: PromptEncoder
    autoencoder: Autoencoder
    schedule: NoiseSchedule
    capture: AttentionCapture
    device: torch.device
    precision: torch.dtype
    plan: MemoryPlan = FASTEST

    @property
    def text_layer(self) -> int:
        layer = self.prompts.layer
        return self.family.text_layer if layer is None else layer

    def weights(self) -> Weights:
        network, stays = sizes(self.unet, self.precision)
        others = [sizes(self.prompts, self.precision), sizes(self.autoencoder, encoding_dtype(self.precision))]
        return Weights(network, stays, *map(sum, zip(*others, strict=True)))

    def arrange(self, plan: MemoryPlan) -> None:
        self.plan = plan
        place(self.unet, self.precision, self.device, plan.network_away)
        place(self.prompts, self.precision, self.device, plan.others_away)
        place(self.autoencoder, encoding_dtype(self.precision), self.device, plan.others_away)
        repeat_layers(self.unet, plan.checkpointing)

    def watch_again(self, watch: Tensor) -> None:
        self.capture.start(watch)

    def lora(self) -> dict[str, nn.Parameter]:
        return lora_of(self.unet)

    def token_rows(self) -> dict[str, nn.Parameter]:
        return self.prompts.trained()

    def name_tokens(self, names: Sequence[str]) -> None:
        self.prompts.names = list(names)

    def token_columns(self) -> Tensor:
        return self.prompts.columns

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return autoencoders.latent_shape(self.autoencoder, height, width)

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        return autoencoders.encode(self.autoencoder, images, noise, self.family.latent_scale)

    def unscaled(self, latents: Tensor) -> Tensor:
        return latents / self.family.latent_scale

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, self.schedule.timesteps, (batch,), generator=generator, device=generator.device)

    def timestep_at(self, noise_level: float) -> Tensor:
        return torch.tensor(round(noise_level * (self.schedule.timesteps - 1)), device=self.device)

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        schedule = self.schedule
        return schedule.add_noise(latents, noise, timesteps), schedule.target(latents, noise, timesteps)

    def reference_prompts(self) -> EncodedPrompts:
        return self.prompts()

    def encode_prompts(self, texts: Sequence[str]) -> EncodedPrompts:
        return self.prompts.encode(texts)

    def require_readable(self, text: str) -> None:
        self.prompts.require_readable(text)

    def positions(self, text: str, word: str) -> list[int]:
        return self.prompts.positions(text, word)

    def predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        prompts: Prompts,
        *,
        sizes: Tensor,
        owners: Tensor | None = None,
        watch: Tensor | None = None,
        lora: Mapping[str, Tensor] | None = None,
    ) -> Prediction:
        assert isinstance(prompts, EncodedPrompts)
        conditions = prompts.conditions(sizes, owners)
        if watch is None:
            with self.capture.paused():
                return Prediction(self._answer(noisy, timesteps, conditions, lora), None)
        self.capture.start(watch)
        answer = self._answer(noisy, timesteps, conditions, lora)
        return Prediction(answer, self.capture.mean_map(noisy.shape[-2:]))

    def _answer(
        self, noisy: Tensor, timesteps: Tensor, conditions: dict[str, Any], lora: Mapping[str, Tensor] | None
    ) -> Tensor:
        noisy = noisy.to(self.precision)
        if lora is None:
            return self.unet(noisy, timesteps, **conditions).sample
        return functional_call(self.unet, dict(lora), (noisy, timesteps), conditions).sample

    def scheduler(self) -> DDIMScheduler:
        return ddim_scheduler(self.schedule)


def ddim_scheduler(schedule: NoiseSchedule) -> DDIMScheduler:
    """Diffusers' DDIM as Stable Diffusion uses it, on the noise levels and prediction type of a model."""
    kept = schedule.alphas_cumprod.double().cpu()
    betas = 1.0 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
    return DDIMScheduler(
        num_train_timesteps=schedule.timesteps,
        trained_betas=betas.tolist(),
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=schedule.prediction_type,
    )


def build_model(
    family: UNetFamily,
    weights: CheckpointWeights,
    class_words: Sequence[str],
    config: TailorConfig,
    device: torch.device,
) -> UNetBackbone:
    """See `Family.build`."""
    family.require_encoders(set(weights.text_encoders))
    attention = text_attention(device)
    encoders = {d.key: build_text_encoder(weights.text_encoders[d.key], d, attention) for d in family.text_encoders}
    width = sum(encoder.config.hidden_size for encoder in encoders.values())
    if width != family.cross_attention_width:
        raise InputError("clip", f"its prompts are {width} wide and the model reads {family.cross_attention_width}")
    assert isinstance(weights.schedule, NoiseSchedule)
    return assemble(
        family=family,
        unet=build_unet(weights.network, family),
        encoders=encoders,
        autoencoder=build_autoencoder(weights.autoencoder),
        schedule=weights.schedule,
        tokenizer=next(iter(weights.tokenizers.values())),
        class_words=class_words,
        config=config,
        device=device,
        text_layer=weights.text_layer,
    )


def assemble(
    *,
    family: UNetFamily,
    unet: UNet2DConditionModel,
    encoders: Mapping[str, TextEncoder],
    autoencoder: Autoencoder,
    schedule: NoiseSchedule,
    tokenizer: Tokenizer,
    class_words: Sequence[str],
    config: TailorConfig,
    device: torch.device,
    text_layer: int | None = None,
) -> UNetBackbone:
    """Add the LoRA and the tokens to frozen parts; `Backbone.arrange` is still to be called.

    Args:
        unet, encoders, autoencoder: frozen, wherever they are, changed in place: the caller gives them away.
        schedule: noise levels and prediction type of the U-Net.
        tokenizer: CLIP's.
        class_words, config, device: as in `Family.build`.
        text_layer: as in `CheckpointWeights`.
    """
    add_lora(unet, LORA_TARGETS, config.lora_rank, config.seed, device)
    model = UNetBackbone(
        family=family,
        unet=unet.train(),
        prompts=PromptEncoder(
            encoders,
            family,
            tokenizer,
            class_words,
            text_layer,
            config.vectors_per_token,
            config.token_start == "mean of pieces",
            device,
        ),
        autoencoder=autoencoder,
        schedule=schedule.to(device),
        capture=watch_attention(unet),
        device=device,
        precision=precision_for(config.mixed_precision, device),
    )
    if device == HOME:
        # there is no other place
        model.arrange(FASTEST)
    return model
