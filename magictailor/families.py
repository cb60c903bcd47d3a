"""What differs between the families of Stable Diffusion, one description each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import InputError
from .noise import PredictionType


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
        pooled: whether the U-Net is also shown its last layer at the end token, normalised and projected.
    """

    key: str
    activation: str
    head_width: int
    pad_token: int
    layer: int
    normalised: bool
    pooled: bool = False


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
        prediction_type: tells families with the same U-Net apart; None: there is one, whatever its models predict.
        vector_width: width of the vector (pooled prompt, then picture sizes) added to the time embedding; None: none.
        size_embedding_width: share of each of the six picture sizes in that vector.
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
    prediction_type: PredictionType | None = None
    vector_width: int | None = None
    size_embedding_width: int | None = None


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

OPENCLIP_H = TextEncoderDescription("clip_h", "gelu", 64, pad_token=0, layer=-2, normalised=True)

SD2_BASE = Family(
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
)

SD2_V = Family(
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
)

SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
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
)

FAMILIES = {family.name: family for family in (SD1, SD2_BASE, SD2_V, SDXL)}

_KINDS_BY_CHANNELS = {9: "an inpainting checkpoint", 8: "an editing checkpoint such as InstructPix2Pix"}
_KINDS_BY_WIDTHS = {
    (1280, 2560): "the refiner of Stable Diffusion XL; connect the base model",
    (1024, 1536): "an unCLIP variation of Stable Diffusion 2.1",
    (1024, 2048): "an unCLIP variation of Stable Diffusion 2.1",
}


def supported() -> str:
    """A sentence that names every family."""
    *others, last = (family.title for family in FAMILIES.values())
    return f"MagicTailor trains {', '.join(others)} and {last}"


def family_of(unet: Mapping[str, object], prediction_type: PredictionType = "epsilon") -> Family:
    """Recognise the family of a U-Net by the shapes of its weights, and by what it predicts where these do not tell.

    Args:
        unet: state dict in the layout of CompVis' latent-diffusion ("input_blocks.0.0.weight", ...).
        prediction_type: of the loaded model.

    Raises:
        InputError: it is none of the families here; says what was found.
    """
    first = unet.get("input_blocks.0.0.weight")
    context = next((w for key, w in unet.items() if key.endswith("attn2.to_k.weight")), None)
    if first is None or context is None:
        raise InputError("model", f"is not a Stable Diffusion U-Net; {supported()}")
    channels = first.shape[1]
    if channels != 4:
        kind = _KINDS_BY_CHANNELS.get(channels, "a checkpoint for another task")
        raise InputError("model", f"its U-Net takes {channels} channels instead of 4, it is {kind}; {supported()}")
    vector = unet.get("label_emb.0.0.weight")
    widths = context.shape[1], None if vector is None else vector.shape[1]
    for family in FAMILIES.values():
        fits = family.prediction_type in (None, prediction_type)
        if fits and widths == (family.cross_attention_width, family.vector_width):
            return family
    found = f"its U-Net reads prompts {widths[0]} wide" + (f" and vectors {widths[1]} wide" if widths[1] else "")
    raise InputError(
        "model", f"{found}, which belongs to {_KINDS_BY_WIDTHS.get(widths, 'another family')}; {supported()}"
    )


def require_encoders(family: Family, found: set[str]) -> None:
    """Refuse a CLIP whose text encoders, by embedding key, are not exactly those of the family.

    Raises:
        InputError: names "clip".
    """
    needed = {description.key for description in family.text_encoders}
    if found != needed:
        raise InputError(
            "clip",
            f"has {' and '.join(sorted(found)) or 'no CLIP text encoder'}, but {family.title} needs "
            f"{' and '.join(sorted(needed))}; connect MODEL and CLIP of the same checkpoint",
        )
