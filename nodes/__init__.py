"""The nodes, in the order in which a graph uses them."""

from .apply import MagicTailorApply
from .attention_maps import MagicTailorAttentionMaps
from .grounded_sam_masks import MagicTailorGroundedSAM
from .load import MagicTailorLoad
from .load_grounded_sam import MagicTailorGroundedSAMLoader
from .load_pair import MagicTailorLoadPair
from .name_tokens import MagicTailorNameTokens
from .reference import MagicTailorReference
from .runs import MagicTailorRuns
from .sampler import MagicTailorSampler
from .save import MagicTailorSave
from .settings import MagicTailorSettings
from .train import MagicTailorTrainV2
from .train_all_in_one import MagicTailorTrain

# what help pages, node texts, node pictures and tests go by
NODES = [
    MagicTailorLoadPair,
    MagicTailorGroundedSAMLoader,
    MagicTailorGroundedSAM,
    MagicTailorReference,
    MagicTailorSettings,
    MagicTailorTrainV2,
    MagicTailorRuns,
    MagicTailorSave,
    MagicTailorLoad,
    MagicTailorNameTokens,
    MagicTailorApply,
    MagicTailorSampler,
    MagicTailorAttentionMaps,
    MagicTailorTrain,
]

__all__ = ["NODES"]
