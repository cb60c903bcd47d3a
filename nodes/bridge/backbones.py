"""What training and applying take from the host's MODEL, CLIP and VAE."""

from __future__ import annotations

from comfy import lora, model_sampling
from comfy.model_patcher import ModelPatcher, get_key_weight
from comfy.sd import CLIP, VAE
from torch import Tensor, float32

from ...magictailor.backbones import CheckpointWeights, Family, recognise
from ...magictailor.backbones.stable_diffusion.schedule import NoiseSchedule
from ...magictailor.errors import InputError

UNET_PREFIX = "diffusion_model."
TRANSFORMER = ".transformer."
QUANTIZATION_RECORDS = (".comfy_quant", ".weight_scale", ".weight_scale_2", ".input_scale", ".pre_quant_scale")


def checkpoint_weights(model: ModelPatcher, clip: CLIP, vae: VAE) -> CheckpointWeights:
    """The weights as the user would sample with them: LoRAs applied upstream are baked in. Changes nothing.

    Raises:
        InputError: the MODEL is of no supported family; says what the host takes it for.
    """
    family_of_model(model)
    encoders: dict[str, dict[str, Tensor]] = {}
    for key, weight in baked(clip.patcher).items():
        name, found, rest = key.partition(TRANSFORMER)
        if found:
            encoders.setdefault(name, {})[rest] = weight
    return CheckpointWeights(
        network={key.removeprefix(UNET_PREFIX): w for key, w in baked(model, UNET_PREFIX).items()},
        text_encoders=encoders,
        autoencoder=baked(vae.patcher),
        schedule=schedule_of(model),
        tokenizers={"clip": tokenizer_of(clip)},
        text_layer=clip.layer_idx,
    )


def baked(patcher: ModelPatcher, prefix: str | None = None) -> dict[str, Tensor]:
    """The weights of a host model with its patches applied, and scaled 8-bit ones unfolded.

    All that needs neither is the host's own tensor.
    """
    weights = {}
    for key in patcher.model_state_dict(prefix):
        if key.endswith(QUANTIZATION_RECORDS):
            continue
        weight, convert = _unpatched(patcher, key)
        patches = patcher.patches.get(key)
        if patches:
            weight = weight.to(float32, copy=True)
        if convert is not None:
            weight = convert(weight, inplace=bool(patches))
        if patches:
            weight = lora.calculate_weight(patches, weight, key)
        weights[key] = weight
    return weights


def _unpatched(patcher: ModelPatcher, key: str):
    weight, _, convert = get_key_weight(patcher.model, key)
    # while the host has a patched model loaded, the original lies in one of these
    if key in patcher.backup:
        weight = patcher.backup[key].weight
    if key in patcher.hook_backup:
        weight = patcher.hook_backup[key][0]
    return weight, convert


def schedule_of(model: ModelPatcher) -> NoiseSchedule:
    """Noise levels and prediction type, also as changed by ModelSamplingDiscrete.

    Raises:
        InputError: the model predicts neither noise nor velocity on 1000 levels.
    """
    sampling = model.get_model_object("model_sampling")
    predictions = {
        model_sampling.EPS.calculate_denoised: "epsilon",
        model_sampling.V_PREDICTION.calculate_denoised: "v_prediction",
    }
    prediction = predictions.get(type(sampling).calculate_denoised)
    sigmas = getattr(sampling, "sigmas", None)
    if prediction is None or sigmas is None or len(sigmas) != 1000:
        raise InputError(
            "model",
            f"its sampling ({type(sampling).__name__}) is not the noise or velocity prediction of Stable Diffusion; "
            "connect the checkpoint without sampling changes such as LCM or EDM",
        )
    return NoiseSchedule.from_sigmas(sigmas, prediction)


def tokenizer_of(clip: CLIP):
    """CLIP's tokenizer, which all text encoders of a Stable Diffusion checkpoint share."""
    for attribute in ("clip_l", "clip_h", "clip_g"):
        tokenizer = getattr(clip.tokenizer, attribute, None)
        if tokenizer is not None:
            return tokenizer.tokenizer
    raise InputError("clip", "has no CLIP tokenizer")


def family_of_model(model: ModelPatcher) -> Family:
    """The family of a MODEL.

    Raises:
        InputError: it is not a supported one; says what the host takes it for.
    """
    try:
        return recognise(model.model.diffusion_model.state_dict(), prediction_of(model))
    except InputError as error:
        name = type(model.model.model_config).__name__
        raise InputError(
            error.field, f"{error.message} (ComfyUI loaded this one as {name}); connect one of those"
        ) from error


def prediction_of(model: ModelPatcher) -> str:
    """What the U-Net predicts, whichever way it is sampled: few-step samplings such as LCM keep the noise."""
    velocity = isinstance(model.get_model_object("model_sampling"), model_sampling.V_PREDICTION)
    return "v_prediction" if velocity else "epsilon"


def require_clip(family: Family, clip: CLIP) -> None:
    """Refuse a CLIP of another family.

    Raises:
        InputError: names the encoders found and needed.
    """
    encoders = clip.cond_stage_model.named_children()
    family.require_encoders({name for name, encoder in encoders if hasattr(encoder, "transformer")})
