"""What training and applying take from the host's MODEL, CLIP and VAE."""

from __future__ import annotations

from comfy import lora, model_sampling
from comfy.model_patcher import ModelPatcher, get_key_weight
from comfy.patcher_extension import WrappersMP
from comfy.sd import CLIP, VAE
from torch import Tensor, float32
from torch.nn import Module

from ...magictailor.backbones import CheckpointWeights, Family, recognise, registered
from ...magictailor.backbones.protocol import Schedule
from ...magictailor.backbones.stable_diffusion.schedule import NoiseSchedule
from ...magictailor.backbones.stable_diffusion_3 import TransformerFamily
from ...magictailor.backbones.stable_diffusion_3.schedule import TIMESTEPS, RectifiedFlow
from ...magictailor.errors import InputError

NETWORK_PREFIX = "diffusion_model."
TRANSFORMER = ".transformer."
COMPILED = "_orig_mod."
QUANTIZATION_RECORDS = (".comfy_quant", ".weight_scale", ".weight_scale_2", ".input_scale", ".pre_quant_scale")


def checkpoint_weights(model: ModelPatcher, clip: CLIP, vae: VAE) -> CheckpointWeights:
    """The weights as the user would sample with them: LoRAs applied upstream are baked in. Changes nothing.

    Raises:
        InputError: the MODEL is of no supported family, says what the host takes it for; or the CLIP is of another one;
            or either keeps its weights in a way that only its own pack can read.
    """
    _require_plain("model", model.model)
    _require_plain("clip", clip.patcher.model)
    family = family_of_model(model)
    require_clip(family, clip)
    encoders: dict[str, dict[str, Tensor]] = {}
    for key, weight in baked(clip.patcher).items():
        name, found, rest = key.partition(TRANSFORMER)
        if found:
            encoders.setdefault(name, {})[rest] = weight
    return CheckpointWeights(
        network={key.removeprefix(NETWORK_PREFIX): w for key, w in baked(model, NETWORK_PREFIX).items()},
        text_encoders=encoders,
        autoencoder=baked(vae.patcher),
        schedule=schedule_of(model),
        tokenizers={key: getattr(clip.tokenizer, key).tokenizer for key in family.embedding_keys},
        text_layer=clip.layer_idx,
    )


def _require_plain(field: str, module: Module) -> None:
    """Refuse weights that another pack packs into whole numbers, as GGUF and NF4 do, or a module it has compiled.

    Raises:
        InputError: says what to connect.
    """
    for name, weight in module.named_parameters():
        if COMPILED in name:
            raise InputError(field, "is compiled in place; connect what goes into the node that compiles it")
        if not weight.is_floating_point():
            raise InputError(
                field,
                f"its weights are quantized ({type(weight).__name__}, {weight.dtype}), which only the pack that "
                "loaded it can read; connect the same checkpoint in 16 bits or fp8 from a stock loader",
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


def unseen_patches(model: ModelPatcher, clip: CLIP) -> list[str]:
    """What acts on MODEL and CLIP while the host samples, and is neither weights nor noise levels: unseen by training.

    Returns:
        the nodes that put it there, by the names of their classes or functions, sorted.
    """
    options = model.model_options
    of_blocks = options.get("transformer_options", {})
    acting = [function for functions in of_blocks.get("patches", {}).values() for function in functions]
    acting += [function for places in of_blocks.get("patches_replace", {}).values() for function in places.values()]
    acting += [options["model_function_wrapper"]] if "model_function_wrapper" in options else []
    wrappers = model.wrappers.get(WrappersMP.DIFFUSION_MODEL, {})
    acting += [function for functions in wrappers.values() for function in functions]
    hooked = clip.patcher.forced_hooks is not None or clip.apply_hooks_to_conds is not None
    hooks = {"Set CLIP Hooks"} if hooked else set()
    return sorted({_origin(function) for function in acting} | hooks | {*model.injections, *clip.patcher.injections})


def foreign_autoencoder(vae: VAE, family: Family) -> bool:
    """Whether a VAE says that it was made for another family: only TAESD does."""
    scale = vae.patcher.model_state_dict().get("vae_scale")
    return scale is not None and scale != 1.0 and abs(float(scale) - getattr(family, "latent_scale", scale)) > 1e-4


def _origin(function) -> str:
    return getattr(function, "__qualname__", type(function).__name__).partition(".")[0]


def _unpatched(patcher: ModelPatcher, key: str):
    weight, _, convert = get_key_weight(patcher.model, key)
    # while the host has a patched model loaded, the original lies in one of these
    if key in patcher.backup:
        weight = patcher.backup[key].weight
    if key in patcher.hook_backup:
        weight = patcher.hook_backup[key][0]
    return weight, convert


def schedule_of(model: ModelPatcher) -> Schedule:
    """The forward process, also as changed by ModelSamplingDiscrete and ModelSamplingSD3.

    Raises:
        InputError: it is sampled in a way that its family's models are not trained for.
    """
    family, sampling = family_of_model(model), model.get_model_object("model_sampling")
    schedule = _flow(sampling) if isinstance(family, TransformerFamily) else _noise_schedule(sampling)
    if schedule is None:
        raise InputError(
            "model",
            f"its sampling ({type(sampling).__name__}) is not what {family.title} is trained with; "
            "connect the checkpoint without sampling changes such as LCM or EDM",
        )
    return schedule


def _noise_schedule(sampling) -> NoiseSchedule | None:
    predictions = {
        model_sampling.EPS.calculate_denoised: "epsilon",
        model_sampling.V_PREDICTION.calculate_denoised: "v_prediction",
    }
    prediction = predictions.get(type(sampling).calculate_denoised)
    sigmas = getattr(sampling, "sigmas", None)
    if prediction is None or sigmas is None or len(sigmas) != 1000:
        return None
    return NoiseSchedule.from_sigmas(sigmas, prediction)


def _flow(sampling) -> RectifiedFlow | None:
    straight = type(sampling).calculate_denoised is model_sampling.CONST.calculate_denoised
    discrete = isinstance(sampling, model_sampling.ModelSamplingDiscreteFlow)
    if not straight or not discrete or sampling.multiplier != TIMESTEPS:
        return None
    return RectifiedFlow(float(sampling.shift))


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
    """What the network predicts, whichever way it is sampled: few-step samplings such as LCM keep the noise."""
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, model_sampling.CONST):
        return "flow"
    return "v_prediction" if isinstance(sampling, model_sampling.V_PREDICTION) else "epsilon"


def text_encoders_of(clip: CLIP) -> set[str]:
    """The text encoders that a CLIP holds, by embedding key."""
    return {name for name, encoder in clip.cond_stage_model.named_children() if hasattr(encoder, "transformer")}


def require_clip(family: Family, clip: CLIP) -> None:
    """Refuse a CLIP of another family.

    Raises:
        InputError: names the encoders found and needed.
    """
    family.require_encoders(text_encoders_of(clip))
    # Stable Diffusion 3 has the encoders of others among its own, but joins their outputs in another way
    known = {key for other in registered() for key in other.embedding_keys}
    read = {key for key in known if hasattr(clip.tokenizer, key)}
    if read != set(family.embedding_keys):
        raise InputError("clip", f"is loaded for another kind of model than {family.title} ({', '.join(sorted(read))})")
