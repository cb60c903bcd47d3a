"""What stays the same from one seed to the next, so that a sampler that does everything need not do it again."""

from dataclasses import dataclass, field
from typing import Any

from ...magictailor.tailoring import Tailoring
from .tailored_model import applied

ATTRIBUTE = "magictailor_kept"


@dataclass
class Kept:
    """A tailoring on a checkpoint, and the prompts that were last encoded with it.

    The host keeps the outputs of nodes whose inputs stay the same; this does it for the parts of one node.
    """

    given_clip: Any
    tailoring: Tailoring
    strength: float
    model: Any
    clip: Any
    encoded: dict[str, Any] = field(default_factory=dict)

    def made_from(self, clip, tailoring: Tailoring, strength: float) -> bool:
        """Whether these very inputs gave it."""
        return self.given_clip is clip and self.tailoring is tailoring and self.strength == strength

    def conditioning(self, *texts: str | None) -> list[Any]:
        """Encode texts, or take what they gave the last time; None gives None."""
        self.encoded = {text: self.encoded.get(text) or self._encode(text) for text in texts if text is not None}
        return [None if text is None else self.encoded[text] for text in texts]

    def _encode(self, text: str):
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))


def kept(model, clip, tailoring: Tailoring, strength: float) -> Kept:
    """The tailoring on the checkpoint; what was last put on this very MODEL if it is the same.

    It is kept on the MODEL, so it goes when the host lets go of that.

    Raises:
        InputError: see `applied`.
    """
    found = getattr(model, ATTRIBUTE, None)
    if found is None or not found.made_from(clip, tailoring, strength):
        found = Kept(clip, tailoring, strength, *applied(model, clip, tailoring, strength))
        setattr(model, ATTRIBUTE, found)
    return found
