"""A tailoring put on a checkpoint."""

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
