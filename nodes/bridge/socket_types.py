"""The socket types of this pack and the menu it stands in."""

from comfy_api.v0_0_2 import io

CATEGORY = "MagicTailor"

Reference = io.Custom("MAGICTAILOR_REFERENCE")
Settings = io.Custom("MAGICTAILOR_SETTINGS")
Tailoring = io.Custom("MAGICTAILOR_TAILORING")
GroundedSAM = io.Custom("MAGICTAILOR_GROUNDED_SAM")
