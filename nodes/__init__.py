"""The nodes, in the order in which a graph uses them."""

from .apply import MagicTailorApply
from .attention_maps import MagicTailorAttentionMaps
from .grounded_sam import MagicTailorGroundedSAM, MagicTailorGroundedSAMLoader, register_model_folders
from .load import MagicTailorLoad
from .load_pair import MagicTailorLoadPair
from .reference import MagicTailorReference
from .sampler import MagicTailorSampler
from .save import MagicTailorSave
from .train import MagicTailorTrain

NODES = [
    MagicTailorLoadPair,
    MagicTailorGroundedSAMLoader,
    MagicTailorGroundedSAM,
    MagicTailorReference,
    MagicTailorTrain,
    MagicTailorSave,
    MagicTailorLoad,
    MagicTailorApply,
    MagicTailorSampler,
    MagicTailorAttentionMaps,
]

__all__ = ["NODES", "register_model_folders"]
