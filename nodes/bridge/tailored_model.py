"""A tailoring put on a checkpoint."""

from comfy.sd import load_lora_for_models

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
    tailored_model, _ = load_lora_for_models(model, None, dict(tailoring.lora), strength, 0.0)
    return tailored_model, tailored_clip(clip, tailoring)
