"""What differs between the families of Stable Diffusion, one description each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class TextEncoderDescription:
    """One CLIP text encoder of a family.

    Attributes:
        key: its name in embedding files, as ComfyUI and A1111 read them.
        activation: of its MLPs, by transformers' name.
        head_width: width of an attention head.
        pad_token: id that fills a prompt up to 77.
        layer: which hidden layer the U-Net is shown, counted from the end: -1 is the last.
        normalised: whether the final layer norm is applied to that layer.
    """

    key: str
    activation: str
    head_width: int
    pad_token: int
    layer: int
    normalised: bool


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    Attributes:
        name: stored in tailorings.
        title: shown to people.
        text_encoders: in the order in which their outputs are joined.
        cross_attention_width: width of the prompt as the U-Net sees it.
        attention_heads: number of heads of every U-Net attention; None if head_width is given instead.
        head_width: width of every U-Net attention head; None if attention_heads is given instead.
        resolution: side in pixels of the pictures it was trained on.
        latent_scale: factor between the autoencoder's latents and the U-Net's.
        base_model_version: kohya's `ss_base_model_version`.
        architecture: the `modelspec.architecture` of the SAI model metadata standard, without "/lora".
    """

    name: str
    title: str
    text_encoders: tuple[TextEncoderDescription, ...]
    cross_attention_width: int
    attention_heads: int | None
    head_width: int | None
    resolution: int
    latent_scale: float
    base_model_version: str
    architecture: str


END_OF_TEXT = 49407

SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    text_encoders=(TextEncoderDescription("clip_l", "quick_gelu", 64, END_OF_TEXT, layer=-1, normalised=True),),
    cross_attention_width=768,
    attention_heads=8,
    head_width=None,
    resolution=512,
    latent_scale=0.18215,
    base_model_version="sd_v1",
    architecture="stable-diffusion-v1",
)

FAMILIES = {family.name: family for family in (SD1,)}


def family_of(unet: Mapping[str, object]) -> Family:
    """Recognise the family of a U-Net by the shapes of its weights.

    Args:
        unet: state dict in the layout of CompVis' latent-diffusion ("input_blocks.0.0.weight", ...).

    Raises:
        InputError: it is none of the families here; says what was found.
    """
    supported = "MagicTailor trains " + ", ".join(f.title for f in FAMILIES.values())
    first = unet.get("input_blocks.0.0.weight")
    context = next((w for key, w in unet.items() if key.endswith("attn2.to_k.weight")), None)
    if first is None or context is None:
        raise InputError("model", f"is not a Stable Diffusion U-Net; {supported}")
    if first.shape[1] != 4:
        raise InputError(
            "model", f"its U-Net takes {first.shape[1]} channels (an inpainting or editing checkpoint?); {supported}"
        )
    width = context.shape[1]
    for family in FAMILIES.values():
        if family.cross_attention_width == width and "label_emb.0.0.weight" not in unet:
            return family
    raise InputError("model", f"its U-Net reads prompts {width} wide, which belongs to another family; {supported}")
