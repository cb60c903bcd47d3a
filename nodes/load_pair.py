"""Load a concept and a component from a folder."""

import logging
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io
from comfy_execution.graph_utils import is_link

from ..magictailor.errors import InputError
from ..magictailor.formats.pair_folder import PairPart, files_of_pair, load_pair, pair_folders
from .bridge import host
from .bridge.convert import image_from_library
from .bridge.errors import artist_errors, described
from .bridge.socket_types import CATEGORY, Reference, WithoutMasks

NAME = "Load MagicTailor Pair"
# not "examples": the host would serve that folder in place of workflows/ as the templates
EXAMPLES = Path(__file__).parents[1] / "example_pairs"
EXAMPLE_PREFIX = "example: "
MASKS_REMEDY = {"folder": "or make them with GroundedSAM Masks and put them together in MagicTailor Reference"}


class MagicTailorLoadPair(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        examples = [EXAMPLE_PREFIX + name for name in pair_folders(EXAMPLES)]
        return io.Schema(
            node_id="MagicTailorLoadPair",
            display_name=NAME,
            category=CATEGORY,
            description="Loads the pictures of a concept and a component, and their masks if there are any, from a "
            "folder named like tower_a+roof_a inside ComfyUI's input folder.",
            search_aliases=["magictailor load folder", "load references", "concept and component"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[*pair_folders(_input_folder()), *examples],
                    # has all its masks, so that the first run works with nothing prepared
                    default=next(iter(examples), None),
                    tooltip="A folder in ComfyUI's input folder, named like tower_a+roof_a: concept, component "
                    "and anything after _ that tells two of them apart. Its pictures begin with 0_ (concept) and 1_ "
                    "(component); masks/<same name>.png is white where to learn. Press R to list new folders. "
                    "'example:' comes with the pack.",
                ),
                io.Int.Input(
                    "component_number",
                    default=1,
                    min=1,
                    max=8,
                    advanced=True,
                    tooltip="Which component to load, for folders with several (tower_a+roof_a+door_a). Connect it to "
                    "Train's component of the same number: component 1 becomes <v1>, component 2 becomes <v2>.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[
                Reference.Output(
                    display_name="concept",
                    tooltip="The concept, ready for Train. Only usable if every picture has a mask in masks/.",
                ),
                Reference.Output(
                    display_name="component",
                    tooltip="The component, ready for Train. Only usable if every picture has a mask in masks/.",
                ),
                io.Image.Output(
                    display_name="concept_images",
                    is_output_list=True,
                    tooltip="The concept's pictures at their own sizes, for GroundedSAM Masks.",
                ),
                io.Image.Output(
                    display_name="component_images",
                    is_output_list=True,
                    tooltip="The component's pictures at their own sizes, for GroundedSAM Masks.",
                ),
                io.String.Output(
                    display_name="concept_word", tooltip="The concept's class word, from the folder's name."
                ),
                io.String.Output(
                    display_name="component_word", tooltip="The component's class word, from the folder's name."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder):
        # any name may be given, for folders are made while the host runs; None: another node will give it
        if folder is None or isinstance(folder, str):
            return True
        return described(NAME, InputError("folder", f"has to be the name of a folder, not {folder!r}"))

    @classmethod
    def fingerprint_inputs(cls, folder, component_number):
        # a folder that cannot be read is reported by execute
        try:
            files = _files(_located(folder))
        except InputError:
            return folder
        return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]

    @classmethod
    def execute(cls, folder, component_number):
        with artist_errors(NAME):
            located = _located(folder)
            _files(located)
            concept, *components = load_pair(located)
            if component_number > len(components):
                raise InputError(
                    "component_number", f"is {component_number}, but {folder} has {len(components)} component(s)"
                )
            component = components[component_number - 1]
            _show(*concept.notes, *component.notes)
            return io.NodeOutput(
                _reference(concept, _is_connected(cls.hidden, 0)),
                _reference(component, _is_connected(cls.hidden, 1)),
                _pictures(concept),
                _pictures(component),
                concept.class_word,
                component.class_word,
            )


def _input_folder() -> Path:
    return Path(folder_paths.get_input_directory())


def _located(folder: str) -> Path:
    root, name = (EXAMPLES, folder.removeprefix(EXAMPLE_PREFIX)) if folder.startswith(EXAMPLE_PREFIX) else (
        _input_folder(),
        folder,
    )  # fmt: skip
    root = root.resolve()
    try:
        located = (root / name).resolve()
        located.is_dir()
    except (OSError, ValueError) as error:  # too long, a zero, half a character
        raise InputError("folder", f"{folder[:60]!r} cannot be the name of a folder") from error
    if located == root or root not in located.parents:
        raise InputError("folder", f"{folder!r} is not inside ComfyUI's input folder; choose one that is")
    return located


def _files(located: Path) -> list[Path]:
    """Pictures and masks of a pair; none may be a link that leads out of its folder."""
    files = files_of_pair(located)
    for file in files:
        if located not in file.resolve().parents:
            raise InputError("folder", f"{file.name} is a link that leads out of it; put the picture itself there")
    return files


def _is_connected(hidden: io.HiddenHolder | None, output: int) -> bool:
    """Whether a node of the queued graph uses an output of this one, other than when this one is bypassed."""
    nodes = (hidden and hidden.prompt or {}).values()
    inputs = [item for node in nodes for item in node["inputs"].items()]
    links = [value for name, value in inputs if is_link(value) and name != "otherwise"]
    return hidden is not None and [hidden.unique_id, output] in links


def _reference(part: PairPart, wanted: bool):
    """The reference; without masks an error, or for nobody who wants it yet, something that Train refuses.

    The host's ExecutionBlocker would stop a MagicTailor Reference too, which has this for *otherwise* and never looks.
    """
    with artist_errors(NAME, MASKS_REMEDY):
        try:
            return part.reference()
        except InputError as error:
            if wanted:
                raise
            return WithoutMasks(described(NAME, error, MASKS_REMEDY))


def _show(*notes: str) -> None:
    for note in notes:
        logging.warning("%s: %s.", NAME, note)
    host.show_lines(notes)


def _pictures(part: PairPart):
    return [image_from_library(image[None]) for image in part.images]
