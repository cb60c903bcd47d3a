"""A checkpoint of Stable Diffusion 3 or 3.5, as training and drawing use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn
from torch.func import functional_call
from transformers import T5EncoderModel

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
from ..t5 import build_t5_encoder, t5_dtype
from .attention import watch_attention
from .conditioning import EncodedPrompts, PromptEncoder
from .family import T5, TransformerFamily
from .schedule import TIMESTEPS, RectifiedFlow, noised, velocity
from .transformer import build_transformer

_IMAGE_STREAM = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT_STREAM = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


@dataclass(eq=False)
class TransformerBackbone:
    """See `magictailor.backbones.protocol.Backbone`, which it implements."""

    family: TransformerFamily
    transformer: SD3Transformer2DModel
    prompts: PromptEncoder
    autoencoder: Autoencoder
    schedule: RectifiedFlow
    capture: AttentionCapture
    device: torch.device
    precision: torch.dtype
    plan: MemoryPlan = FASTEST

    @property
    def text_layer(self) -> int | None:
        return self.prompts.layer

    def weights(self) -> Weights:
        network, stays = sizes(self.transformer, self.precision)
        others = [sizes(encoder, self._dtype_of(key)) for key, encoder in self.prompts.encoders.items()]
        others.append(sizes(self.autoencoder, encoding_dtype(self.precision)))
        return Weights(network, stays, *map(sum, zip(*others, strict=True)))

    def _dtype_of(self, encoder: str) -> torch.dtype:
        return t5_dtype(self.precision) if encoder == T5 else self.precision

    def arrange(self, plan: MemoryPlan) -> None:
        self.plan = plan
        place(self.transformer, self.precision, self.device, plan.network_away)
        for key, encoder in self.prompts.encoders.items():
            place(encoder, self._dtype_of(key), self.device, plan.others_away)
        place(self.autoencoder, encoding_dtype(self.precision), self.device, plan.others_away)
        repeat_layers(self.transformer, plan.checkpointing)

    def watch_again(self, watch: Tensor) -> None:
        self.capture.start(watch)

    def lora(self) -> dict[str, nn.Parameter]:
        return lora_of(self.transformer)

    def token_rows(self) -> dict[str, nn.Parameter]:
        return self.prompts.trained()

    def name_tokens(self, names: Sequence[str]) -> None:
        self.prompts.names = list(names)

    def token_columns(self) -> Tensor:
        return self.prompts.columns

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return autoencoders.latent_shape(self.autoencoder, height, width)

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        family = self.family
        return autoencoders.encode(self.autoencoder, images, noise, family.latent_scale, family.latent_shift)

    def unscaled(self, latents: Tensor) -> Tensor:
        return latents / self.family.latent_scale + self.family.latent_shift

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        return self.schedule.drawn_timesteps(torch.randn(batch, generator=generator, device=generator.device))

    def timestep_at(self, noise_level: float) -> Tensor:
        return TIMESTEPS * self.schedule.noise_levels(torch.tensor(noise_level, device=self.device))

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return noised(latents, noise, timesteps), velocity(latents, noise)

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
        conditions = {name: tensor.to(self.precision) for name, tensor in prompts.conditions(owners).items()}
        conditions["timestep"] = timesteps.expand(len(noisy))
        if watch is None:
            with self.capture.paused():
                return Prediction(self._answer(noisy, conditions, lora), None)
        self.capture.start(watch)
        answer = self._answer(noisy, conditions, lora)
        return Prediction(answer, self.capture.mean_map(noisy.shape[-2:]))

    def _answer(self, noisy: Tensor, conditions: Mapping[str, Any], lora: Mapping[str, Tensor] | None) -> Tensor:
        height, width = noisy.shape[-2:]
        patch = self.transformer.config.patch_size
        # a last patch that is cut off goes on at the other end, as in ComfyUI
        whole = F.pad(noisy.to(self.precision), (0, -width % patch, 0, -height % patch), mode="circular")
        if lora is None:
            answer = self.transformer(whole, **conditions).sample
        else:
            answer = functional_call(self.transformer, dict(lora), (whole,), dict(conditions)).sample
        return answer[..., :height, :width]

    def scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=self.schedule.shift)


def build_model(
    family: TransformerFamily,
    weights: CheckpointWeights,
    class_words: Sequence[str],
    config: TailorConfig,
    device: torch.device,
) -> TransformerBackbone:
    """See `Family.build`."""
    assert isinstance(weights.schedule, RectifiedFlow)
    family.require_encoders(set(weights.text_encoders))
    return assemble(
        family=family,
        transformer=build_transformer(weights.network),
        encoders=_build_encoders(family, weights.text_encoders, text_attention(device)),
        autoencoder=build_autoencoder(weights.autoencoder, channels=family.latent_channels),
        schedule=weights.schedule,
        tokenizers=weights.tokenizers,
        class_words=class_words,
        config=config,
        device=device,
        text_layer=weights.text_layer,
    )


def _build_encoders(
    family: TransformerFamily,
    states: Mapping[str, Mapping[str, Tensor]],
    attention: str,
) -> dict[str, TextEncoder | T5EncoderModel]:
    encoders: dict[str, TextEncoder | T5EncoderModel] = {}
    for description, width in zip(family.text_encoders, family.clip_widths, strict=True):
        if description.key in states:
            encoder = build_text_encoder(states[description.key], description, attention)
            if encoder.config.hidden_size != width:
                found = f"its {description.key} is {encoder.config.hidden_size} wide"
                raise InputError("clip", f"{found} and {family.title} reads {width}")
            encoders[description.key] = encoder
    if T5 in states:
        encoder = build_t5_encoder(states[T5])
        if encoder.config.d_model != family.prompt_width:
            found = f"its {T5} is {encoder.config.d_model} wide"
            raise InputError("clip", f"{found} and {family.title} reads {family.prompt_width}")
        encoders[T5] = encoder
    return encoders


def assemble(
    *,
    family: TransformerFamily,
    transformer: SD3Transformer2DModel,
    encoders: Mapping[str, TextEncoder | T5EncoderModel],
    autoencoder: Autoencoder,
    schedule: RectifiedFlow,
    tokenizers: Mapping[str, Tokenizer],
    class_words: Sequence[str],
    config: TailorConfig,
    device: torch.device,
    text_layer: int | None = None,
) -> TransformerBackbone:
    """Add the LoRA and the tokens to frozen parts; `Backbone.arrange` is still to be called.

    Args:
        transformer, encoders, autoencoder: frozen, wherever they are, changed in place: the caller gives them away.
        schedule: the forward process of the transformer.
        tokenizers: as in `CheckpointWeights`.
        class_words, config, device: as in `Family.build`.
        text_layer: as in `CheckpointWeights`.
    """
    add_lora(transformer, lora_targets(transformer), config.lora_rank, config.seed, device)
    model = TransformerBackbone(
        family=family,
        transformer=transformer.train(),
        prompts=PromptEncoder(
            encoders,
            family,
            tokenizers,
            class_words,
            text_layer,
            config.vectors_per_token,
            config.token_start == "mean of pieces",
            device,
        ),
        autoencoder=autoencoder,
        schedule=schedule,
        capture=watch_attention(transformer),
        device=device,
        precision=precision_for(config.mixed_precision, device),
    )
    if device == HOME:
        # there is no other place
        model.arrange(FASTEST)
    return model


def lora_targets(transformer: SD3Transformer2DModel) -> list[str]:
    """Names of the attention projections of both streams, also of the second attention.

    The last block's queries of the text are left out: nothing reads what they find.
    """
    endings = tuple(f".{name}" for name in (*_IMAGE_STREAM, *_TEXT_STREAM))
    unread = f"transformer_blocks.{len(transformer.transformer_blocks) - 1}.attn.add_q_proj"
    found = (name for name, module in transformer.named_modules() if isinstance(module, nn.Linear))
    return [name for name in found if name.endswith(endings) and name != unread]
