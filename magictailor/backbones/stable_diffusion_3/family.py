"""What differs between the models of Stable Diffusion 3 and 3.5, one description each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ...memory import Appetite
from ..clip_description import END_OF_TEXT, TextEncoderDescription
from ..lora_layout import DIFFUSERS_TRANSFORMER, LoraLayout
from ..protocol import Backbone, Checkpoint, CheckpointFile, CheckpointWeights, Family, SamplerDefaults

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...config import TailorConfig

FIRST_BLOCK = "joint_blocks.0.context_block.attn.qkv.weight"
T5 = "t5xxl"

_CLIP = (
    TextEncoderDescription("clip_l", "quick_gelu", 64, END_OF_TEXT, layer=-2, normalised=False),
    TextEncoderDescription("clip_g", "gelu", 64, pad_token=0, layer=-2, normalised=False, pooled=True),
)


@dataclass(frozen=True)
class TransformerFamily(Family):
    """A family whose network is the MM-DiT of Esser et al. 2024 (arXiv 2403.03206).

    Its models share everything but the two marks; a LoRA of one does nothing good to another of the same width.

    Attributes:
        normalises_attention: queries and keys are normalised (rms), as from Stable Diffusion 3.5 on.
        attends_twice: its first blocks have a second attention among image positions alone (MM-DiT-X).
        text_encoders: the CLIP encoders, in the order in which their outputs are joined. Each may be missing.
        clip_widths: of these encoders' outputs, which are zeros where an encoder is missing.
        prompt_width: of the prompt as the network sees it, and of the T5 encoder's output.
        latent_channels: of the autoencoder.
        latent_scale, latent_shift: (latent of the autoencoder - shift) * scale is the network's.
    """

    normalises_attention: bool
    attends_twice: bool
    text_encoders: tuple[TextEncoderDescription, ...] = _CLIP
    clip_widths: tuple[int, ...] = (768, 1280)
    prompt_width: int = 4096
    latent_channels: int = 16
    latent_scale: float = 1.5305
    latent_shift: float = 0.0609

    @property
    def vector_width(self) -> int:
        """Of the pooled prompt as the network sees it."""
        return sum(self.clip_widths)

    @property
    def embedding_keys(self) -> tuple[str, ...]:
        return (*(description.key for description in self.text_encoders), T5)

    @property
    def lora_layout(self) -> LoraLayout:
        return DIFFUSERS_TRANSFORMER

    @property
    def sampler(self) -> SamplerDefaults:
        """As ComfyUI's own template for Stable Diffusion 3.5 (sd3.5_simple_example) samples."""
        return SamplerDefaults(steps=20, cfg=4.01, sampler_name="euler", scheduler="sgm_uniform")

    def fits(self, network: Mapping[str, Tensor], prediction_type: str) -> bool:
        if _widths(network) != (self.latent_channels, self.prompt_width, self.vector_width):
            return False
        return (self.normalises_attention, self.attends_twice) == _marks(network)

    @classmethod
    def refusal(cls, network: Mapping[str, Tensor]) -> str | None:
        if FIRST_BLOCK not in network:
            return None
        widths = _widths(network)
        if widths is None:
            return "its transformer lacks parts of Stable Diffusion 3"
        channels, prompt, vector = widths
        return (
            f"its transformer takes {channels} channels, prompts {prompt} wide and vectors {vector} wide, which "
            "belongs to another family"
        )

    def require_encoders(self, found: set[str]) -> None:
        unknown = found - set(self.embedding_keys)
        if unknown or not found:
            raise InputError(
                "clip",
                f"has {' and '.join(sorted(found)) or 'no text encoder'}, but {self.title} reads one or more of "
                + ", ".join(self.embedding_keys),
            )

    def build(
        self, weights: CheckpointWeights, class_words: Sequence[str], config: TailorConfig, device: torch.device
    ) -> Backbone:
        from .backbone import build_model

        return build_model(self, weights, class_words, config, device)

    @classmethod
    def open_file(cls, file: CheckpointFile) -> Checkpoint | None:
        from .checkpoint_file import open_file

        return open_file(file)

    @classmethod
    def open_folder(cls, folder: Path, tokenizer: Path | None, prediction_type: str | None) -> Checkpoint | None:
        from .diffusers_folder import open_folder

        return open_folder(folder, tokenizer)


def _widths(network: Mapping[str, Tensor]) -> tuple[int, int, int] | None:
    """Channels of the latents, width of the prompt and of the vector; None if it is no MM-DiT.

    Args:
        network: state dict in the layout of Stability AI's reference implementation ("joint_blocks.0...").
    """
    first, prompt, vector = (
        network.get(f"{name}.weight") for name in ("x_embedder.proj", "context_embedder", "y_embedder.mlp.0")
    )
    if FIRST_BLOCK not in network or first is None or prompt is None or vector is None:
        return None
    return first.shape[1], prompt.shape[1], vector.shape[1]


def _marks(network: Mapping[str, Tensor]) -> tuple[bool, bool]:
    """Whether queries and keys are normalised, and whether there is a second attention."""
    return (
        "joint_blocks.0.x_block.attn.ln_q.weight" in network,
        "joint_blocks.0.x_block.attn2.qkv.weight" in network,
    )


SD3_MEDIUM = TransformerFamily(
    name="sd3_medium",
    title="Stable Diffusion 3 medium",
    resolution=1024,
    base_model_version="sd3_m",
    architecture="stable-diffusion-3-m",
    prediction_type=None,
    normalises_attention=False,
    attends_twice=False,
)

SD35_MEDIUM = TransformerFamily(
    name="sd3.5_medium",
    title="Stable Diffusion 3.5 medium",
    resolution=1024,
    base_model_version="sd3_5-medium",
    architecture="stable-diffusion-3-5-medium",
    prediction_type=None,
    normalises_attention=True,
    attends_twice=True,
    appetite=Appetite(whole=8.52, between=0.354, layers=2.247, encoding=1.68, text=0.49),
)

SD35_LARGE = TransformerFamily(
    name="sd3.5_large",
    title="Stable Diffusion 3.5 large",
    resolution=1024,
    base_model_version="sd3_5-large",
    architecture="stable-diffusion-3-5-large",
    prediction_type=None,
    normalises_attention=True,
    attends_twice=False,
)
