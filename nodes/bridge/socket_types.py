"""The socket types of this pack and the menu it stands in."""

from dataclasses import dataclass

from comfy_api.v0_0_2 import io

CATEGORY = "MagicTailor"

Reference = io.Custom("MAGICTAILOR_REFERENCE")
Settings = io.Custom("MAGICTAILOR_SETTINGS")
Tailoring = io.Custom("MAGICTAILOR_TAILORING")
GroundedSAM = io.Custom("MAGICTAILOR_GROUNDED_SAM")
Scores = io.Custom("MAGICTAILOR_SCORES")


@dataclass(frozen=True)
class WithoutMasks:
    """Stands in a Reference socket for pictures that have no masks; `complaint` is what Train says of it."""

    complaint: str
