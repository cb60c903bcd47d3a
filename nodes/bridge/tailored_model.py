"""A tailoring put on a checkpoint."""

import torch
from comfy.sd import load_lora_for_models

from ...magictailor.formats.other_trainers import TEXT_LORA
from ...magictailor.tailoring import Tailoring, require_family, require_rows
from .backbones import family_of_model, require_clip, text_encoders_of
from .tailored_clip import tailored_clip


def applied(model, clip, tailoring: Tailoring, strength: float):
    """Copies of MODEL and CLIP with the tailoring on them.

    Raises:
        InputError: the MODEL or CLIP is of another family than the tailoring, or has text encoders it does not know.
    """
    family = family_of_model(model)
    require_family(tailoring, family)
    require_clip(family, clip)
    require_rows(tailoring, text_encoders_of(clip))
    clip = tailored_clip(clip, tailoring)
    # of another trainer's text encoders; ours are never changed
    of_text = any(key.startswith(TEXT_LORA) for key in tailoring.lora)
    model, with_lora = load_lora_for_models(
        model, clip if of_text else None, dict(tailoring.lora), strength, strength if of_text else 0.0
    )
    return model, with_lora or clip


def odd(model, clip, tailoring: Tailoring) -> list[str]:
    """What to say of MODEL and CLIP that a tailoring can be put on, though not as it is meant."""
    return [*filter(None, (_on_it_before(model, tailoring), _other_layer(clip, tailoring)))]


def _other_layer(clip, tailoring: Tailoring) -> str:
    """What to say of a CLIP that is read at another layer than the tailoring was learned with; "" for nothing."""
    learned, read = tailoring.text_layer, clip.layer_idx or tailoring.family.text_layer
    if learned is None or learned == read:
        return ""
    given = "the usual one" if read is None else read
    return (
        f"This tailoring was learned with layer {learned} of the CLIP (clip skip), and this CLIP gives {given}. "
        f"Put CLIP Set Last Layer with {learned} before this node if that is not meant"
    )


def _on_it_before(model, tailoring: Tailoring) -> str:
    """What to say of a MODEL on which the LoRA of a tailoring is already; "" for nothing."""
    strengths = [strength for strength in _strengths_of(model, tailoring) if strength]
    if not strengths:
        return ""
    return (
        f"This MODEL has this tailoring's LoRA already, at strength {sum(strengths):g}, and now once more. "
        "Connect the checkpoint's own MODEL if that is not meant"
    )


def _strengths_of(model, tailoring: Tailoring) -> list[float]:
    """How strongly a MODEL has one layer of a tailoring's LoRA, once for every time it was put on."""
    layout, lora = tailoring.family.lora_layout, tailoring.lora
    stems = (key.removesuffix(layout.up) for key in lora if key.startswith(layout.prefix) and key.endswith(layout.up))
    stem = min(stems, default=None)
    if stem is None:
        return []
    learned = [lora[stem + layout.up], lora[stem + layout.down]]
    patches = [patch for of_weight in model.patches.values() for patch in of_weight]
    return [patch[0] for patch in patches if _is_made_of(getattr(patch[1], "weights", ()), learned)]


def _is_made_of(weights, learned: list[torch.Tensor]) -> bool:
    """Whether the first two matrices of a patch, up and down, are these."""
    return len(weights) > 1 and all(
        one is other or (one.shape == other.shape and torch.equal(one.to(other), other))
        for one, other in zip(weights[:2], learned, strict=True)
    )
