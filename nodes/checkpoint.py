"""What training and applying take from the host's MODEL, CLIP and VAE."""

from comfy import lora, model_sampling
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor, float32

from ..magictailor.errors import InputError
from ..magictailor.families import Family, family_of
from ..magictailor.model import CheckpointWeights
from ..magictailor.noise import NoiseSchedule

UNET_PREFIX = "diffusion_model."
TRANSFORMER = ".transformer."


def checkpoint_weights(model: ModelPatcher, clip: CLIP, vae: VAE) -> CheckpointWeights:
    """The weights as the user would sample with them: LoRAs applied upstream are baked in. Changes nothing."""
    encoders: dict[str, dict[str, Tensor]] = {}
    for key, weight in baked(clip.patcher).items():
        name, found, rest = key.partition(TRANSFORMER)
        if found:
            encoders.setdefault(name, {})[rest] = weight
    return CheckpointWeights(
        unet={key.removeprefix(UNET_PREFIX): w for key, w in baked(model, UNET_PREFIX).items()},
        text_encoders=encoders,
        autoencoder=baked(vae.patcher),
        schedule=schedule_of(model),
        tokenizer=tokenizer_of(clip),
        text_layer=clip.layer_idx,
    )


def baked(patcher: ModelPatcher, prefix: str | None = None) -> dict[str, Tensor]:
    """The weights of a host model with its patches applied; unpatched ones are the host's own tensors."""
    weights = {}
    for key, ((weight, convert), *patches) in patcher.get_key_patches(prefix).items():
        if patches:
            weight = lora.calculate_weight(patches, convert(weight.to(float32, copy=True), inplace=True), key)
        weights[key] = weight
    return weights


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
    return NoiseSchedule(1.0 / (sigmas.detach().clone().float().cpu() ** 2 + 1.0), prediction)


def tokenizer_of(clip: CLIP):
    """CLIP's tokenizer, which all text encoders of a Stable Diffusion checkpoint share."""
    for attribute in ("clip_l", "clip_h", "clip_g"):
        tokenizer = getattr(clip.tokenizer, attribute, None)
        if tokenizer is not None:
            return tokenizer.tokenizer
    raise InputError("clip", "has no CLIP tokenizer; connect MODEL and CLIP of the same Stable Diffusion checkpoint")


def family_of_model(model: ModelPatcher) -> Family:
    """The family of a MODEL.

    Raises:
        InputError: it is not a supported one.
    """
    state = model.model.diffusion_model.state_dict()
    return family_of(state)
