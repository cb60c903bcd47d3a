"""Run a workflow once for each pair folder."""

import re
import uuid
from fnmatch import fnmatchcase
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..magictailor.errors import InputError
from ..magictailor.formats.pair_folder import pair_folders
from .bridge import host
from .bridge.errors import artist_errors
from .bridge.socket_types import CATEGORY

NAME = "MagicTailor Queue Pairs"


class MagicTailorQueuePairs(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MagicTailorQueuePairs",
            display_name=NAME,
            category=CATEGORY,
            description="Runs the workflow once for each pair folder: press Run once, and every pair stands in the "
            "queue with a prompt of its own.",
            search_aliases=["magictailor queue", "batch", "many pairs", "all folders"],
            inputs=[
                io.String.Input(
                    "pairs",
                    default="*",
                    tooltip="Which pair folders below ComfyUI's input folder, with commas between them; * stands for "
                    "anything: tower_*, my_pairs/*, anna+hair. Only folders named like tower_a+roof_a count.",
                ),
                io.String.Input(
                    "only",
                    default="",
                    advanced=True,
                    tooltip="The pair of this prompt; the node fills it in for those it queues. Empty: queue all.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.AnyType.Output(display_name="folder", tooltip="For folder of Load MagicTailor Pair."),
                io.String.Output(display_name="name", tooltip="For name of Save Tailoring: the folder's, without +."),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, pairs, only):
        return only or uuid.uuid4().hex  # what queues has to run whenever it is asked to

    @classmethod
    def execute(cls, pairs, only):
        if only:
            with artist_errors(NAME):
                if only not in known_folders():
                    raise InputError("only", "is no pair folder of ComfyUI's input folder; leave it empty to queue all")
            return io.NodeOutput(only, as_name(only))
        with artist_errors(NAME):
            found = folders_called(pairs)
        host.queue_variations(cls.hidden.unique_id, "only", found)
        host.show_text("\n".join([f"queued {len(found)}:", *found]))
        # the prompts that were queued draw; this one ends here
        return io.NodeOutput(ExecutionBlocker(None), ExecutionBlocker(None))


def folders_called(pairs: str) -> list[str]:
    """Pair folders of the input folder that fit one of the patterns.

    Raises:
        InputError: there is none.
    """
    patterns = [pattern for part in re.split("[,，]", pairs) if (pattern := part.strip())]
    known = known_folders()
    found = [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not found:
        there = f"there are {', '.join(known)}" if known else "ComfyUI's input folder has none, such as tower_a+roof_a"
        raise InputError("pairs", f"no pair folder is called {pairs!r}; {there}")
    return found


def known_folders() -> list[str]:
    """All pair folders of the input folder."""
    return list(pair_folders(Path(folder_paths.get_input_directory())))


def as_name(folder: str) -> str:
    """A folder's name as part of a file's."""
    return re.sub(r"[^\w-]+", "_", folder.rpartition("/")[2])
