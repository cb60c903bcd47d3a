"""The nodes, in the order in which a graph uses them."""

from .apply import MagicTailorApply
from .attention_maps import MagicTailorAttentionMaps
from .blend import MagicTailorBlend
from .compare import MagicTailorCompare
from .grounded_sam_masks import MagicTailorGroundedSAM
from .load import MagicTailorLoad
from .load_grounded_sam import MagicTailorGroundedSAMLoader
from .load_pair import MagicTailorLoadPair
from .name_tokens import MagicTailorNameTokens
from .pick import MagicTailorPick
from .queue_pairs import MagicTailorQueuePairs
from .reference import MagicTailorReference
from .runs import MagicTailorRuns
from .sampler import MagicTailorSampler
from .save import MagicTailorSave
from .score import MagicTailorScore
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
    MagicTailorBlend,
    MagicTailorApply,
    MagicTailorSampler,
    MagicTailorAttentionMaps,
    MagicTailorScore,
    MagicTailorPick,
    MagicTailorCompare,
    MagicTailorQueuePairs,
    MagicTailorTrain,
]

__all__ = ["NODES"]
