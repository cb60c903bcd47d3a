"""What differs between the families of Stable Diffusion whose network is a U-Net, one description each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ...memory import Appetite
from ..clip_description import END_OF_TEXT, TextEncoderDescription
from ..lora_layout import KOHYA_UNET, LoraLayout
from ..protocol import Backbone, Checkpoint, CheckpointFile, CheckpointWeights, Family, SamplerDefaults

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...config import TailorConfig

_KINDS_BY_CHANNELS = {9: "an inpainting checkpoint", 8: "an editing checkpoint such as InstructPix2Pix"}
_KINDS_BY_WIDTHS: dict[tuple[int, int | None], str] = {
    (1280, 2560): "the refiner of Stable Diffusion XL; connect the base model",
    (1024, 1536): "an unCLIP variation of Stable Diffusion 2.1",
    (1024, 2048): "an unCLIP variation of Stable Diffusion 2.1",
}


@dataclass(frozen=True)
class UNetFamily(Family):
    """A family whose network is a U-Net with cross-attention to CLIP.

    Attributes:
        text_encoders: in the order in which their outputs are joined.
        cross_attention_width: width of the prompt as the U-Net sees it.
        attention_heads: number of heads of every U-Net attention; None if head_width is given instead.
        head_width: width of every U-Net attention head; None if attention_heads is given instead.
        latent_scale: factor between the autoencoder's latents and the U-Net's.
        vector_width: width of the vector (pooled prompt, then picture sizes) added to the time embedding; None: none.
        size_embedding_width: share of each of the six picture sizes in that vector.
    """

    text_encoders: tuple[TextEncoderDescription, ...]
    cross_attention_width: int
    attention_heads: int | None
    head_width: int | None
    latent_scale: float
    vector_width: int | None = None
    size_embedding_width: int | None = None

    @property
    def embedding_keys(self) -> tuple[str, ...]:
        return tuple(description.key for description in self.text_encoders)

    @property
    def lora_layout(self) -> LoraLayout:
        return KOHYA_UNET

    @property
    def sampler(self) -> SamplerDefaults:
        """As the paper samples."""
        return SamplerDefaults(steps=50, cfg=7.5, sampler_name="ddim", scheduler="ddim_uniform")

    @property
    def text_layer(self) -> int:
        return self.text_encoders[0].layer

    def fits(self, network: Mapping[str, Tensor], prediction_type: str) -> bool:
        widths = _widths(network)
        predicts = self.prediction_type in (None, prediction_type)
        return predicts and widths == (4, self.cross_attention_width, self.vector_width)

    @classmethod
    def refusal(cls, network: Mapping[str, Tensor]) -> str | None:
        widths = _widths(network)
        if widths is None:
            return None
        channels, context, vector = widths
        if channels != 4:
            kind = _KINDS_BY_CHANNELS.get(channels, "a checkpoint for another task")
            return f"its U-Net takes {channels} channels instead of 4, it is {kind}"
        found = f"its U-Net reads prompts {context} wide" + (f" and vectors {vector} wide" if vector else "")
        return f"{found}, which belongs to {_KINDS_BY_WIDTHS.get((context, vector), 'another family')}"

    def require_encoders(self, found: set[str]) -> None:
        if found != set(self.embedding_keys):
            raise InputError(
                "clip",
                f"has {' and '.join(sorted(found)) or 'no CLIP text encoder'}, but {self.title} needs "
                + " and ".join(sorted(self.embedding_keys)),
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

        return open_folder(folder, tokenizer, prediction_type)

    def metadata(self) -> dict[str, str]:
        # ss_v2 is how A1111 tells Stable Diffusion 2.x from 1.x
        shared = super().metadata() | {"ss_v2": str(self.base_model_version.startswith("sd_v2"))}
        if self.prediction_type is None:
            return shared
        return shared | {"modelspec.prediction_type": "v" if self.prediction_type == "v_prediction" else "epsilon"}


def _widths(unet: Mapping[str, Tensor]) -> tuple[int, int, int | None] | None:
    """Channels of the latents, width of the prompt and of the vector; None if it is not a U-Net with a prompt.

    Args:
        unet: state dict in the layout of CompVis' latent-diffusion ("input_blocks.0.0.weight", ...).
    """
    first = unet.get("input_blocks.0.0.weight")
    context = next((w for key, w in unet.items() if key.endswith("attn2.to_k.weight")), None)
    if first is None or context is None:
        return None
    vector = unet.get("label_emb.0.0.weight")
    return first.shape[1], context.shape[1], None if vector is None else vector.shape[1]


SD1 = UNetFamily(
    name="sd1",
    title="Stable Diffusion 1.x",
    prediction_type=None,
    text_encoders=(TextEncoderDescription("clip_l", "quick_gelu", 64, END_OF_TEXT, layer=-1, normalised=True),),
    cross_attention_width=768,
    attention_heads=8,
    head_width=None,
    resolution=512,
    latent_scale=0.18215,
    base_model_version="sd_v1",
    architecture="stable-diffusion-v1",
    appetite=Appetite(whole=0.896, between=0.1455, layers=0.079, encoding=0.42, text=0.02),
)

OPENCLIP_H = TextEncoderDescription("clip_h", "gelu", 64, pad_token=0, layer=-2, normalised=True)

SD2_BASE = UNetFamily(
    name="sd2",
    title="Stable Diffusion 2.x base (512, noise prediction)",
    text_encoders=(OPENCLIP_H,),
    cross_attention_width=1024,
    attention_heads=None,
    head_width=64,
    resolution=512,
    latent_scale=0.18215,
    base_model_version="sd_v2",
    architecture="stable-diffusion-v2-512",
    prediction_type="epsilon",
    appetite=Appetite(whole=0.898, between=0.1455, layers=0.079, encoding=0.42, text=0.03),
)

SD2_V = UNetFamily(
    name="sd2_v",
    title="Stable Diffusion 2.x (768, v-prediction)",
    text_encoders=(OPENCLIP_H,),
    cross_attention_width=1024,
    attention_heads=None,
    head_width=64,
    resolution=768,
    latent_scale=0.18215,
    base_model_version="sd_v2_v",
    architecture="stable-diffusion-v2-768-v",
    prediction_type="v_prediction",
    appetite=Appetite(whole=2.02, between=0.331, layers=0.185, encoding=0.945, text=0.03),
)

SDXL = UNetFamily(
    name="sdxl",
    title="Stable Diffusion XL",
    prediction_type=None,
    text_encoders=(
        TextEncoderDescription("clip_l", "quick_gelu", 64, END_OF_TEXT, layer=-2, normalised=False),
        TextEncoderDescription("clip_g", "gelu", 64, pad_token=0, layer=-2, normalised=False, pooled=True),
    ),
    cross_attention_width=2048,
    attention_heads=None,
    head_width=64,
    resolution=1024,
    latent_scale=0.13025,
    base_model_version="sdxl_base_v1-0",
    architecture="stable-diffusion-xl-v1-base",
    vector_width=2816,
    size_embedding_width=256,
    appetite=Appetite(whole=6.79, between=0.51, layers=1.205, encoding=1.68, text=0.077, repeating=0.5),
)
