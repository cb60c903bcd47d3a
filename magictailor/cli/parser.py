"""The command line's arguments. Those of training are generated from `TailorConfig`; torch is not needed here."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from ..config import CONTINUE, RESUME, Knob, TailorConfig, defaults, knobs

_DEFAULT = "(default: %(default)s)"


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m magictailor`; `command` of what it gives is "train", "sample" or "masks"."""
    top = argparse.ArgumentParser(
        prog="python -m magictailor",
        description="Learn a concept and its components from a few pictures, and draw them, without ComfyUI.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="train | sample | masks")
    _train(commands.add_parser("train", help="learn the pictures of a folder"))
    _sample(commands.add_parser("sample", help="draw with what was learned"))
    _masks(commands.add_parser("masks", help="make the masks of a folder from words"))
    return top


def config_of(arguments: argparse.Namespace) -> TailorConfig:
    """The hyper-parameters among parsed arguments.

    Raises:
        InputError: one is out of its range.
    """
    return TailorConfig(**{name: getattr(arguments, name) for name in knobs()})


def _train(parser: argparse.ArgumentParser) -> None:
    parser.description = "Learn a concept and its components: a LoRA and the words <v0>, <v1> ..."
    _add_checkpoint(parser)
    _add_pair(parser, "with masks/<same name>.png, white where to learn")
    _add_output(parser, "the tailoring and its embeddings")
    parser.add_argument("--name", help="of the files to write, without ending; the folder's name if not given")
    parser.add_argument(
        "--resume",
        choices=RESUME,
        default=CONTINUE,
        help="continue: go on where the same training stopped, or take it from disk if it is finished; runs lie in "
        f"the folder runs of --output_dir {_DEFAULT}",
    )
    parser.add_argument(
        "--snapshot_every",
        type=int,
        default=0,
        metavar="N",
        help=f"steps from one tailoring that is kept in the run's folder to the next; 0 keeps none {_DEFAULT}",
    )
    _add_device(parser)
    for name, knob in knobs().items():
        _add_knob(parser, name, knob)


def _sample(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw with what was learned: DDIM, as in the paper."
    _add_checkpoint(parser)
    parser.add_argument(
        "--model_path",
        type=Path,
        required=True,
        help="a saved tailoring, or the output folder of the released program",
    )
    parser.add_argument("--prompt", nargs="+", help="what to draw, one or more; <v0> with <v1> if not given")
    parser.add_argument("--negative_prompt", default="", help="what not to draw")
    _add_output(parser, "the pictures")
    parser.add_argument("--seed", type=int, default=0, help=f"of the first noise; the next ones count on {_DEFAULT}")
    parser.add_argument("--count", type=int, default=1, help=f"pictures for each prompt {_DEFAULT}")
    parser.add_argument("--steps", type=int, default=50, help=f"DDIM steps {_DEFAULT}")
    parser.add_argument("--cfg", type=float, default=7.5, help=f"how closely to follow the prompt {_DEFAULT}")
    for name in ("width", "height"):
        parser.add_argument(f"--{name}", type=int, default=0, help="in pixels; the checkpoint's own if not given")
    _add_device(parser)
    _add_knob(parser, "mixed_precision", knobs()["mixed_precision"])


def _masks(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Find masks with Grounding DINO and SAM: the concept without its components, and each component. "
        "The words are those of the folder's name. Masks that are there already stay."
    )
    _add_pair(parser, "whose subfolder masks is filled")
    for name, help in (
        ("grounding_dino", "groundingdino_swint_ogc.pth or groundingdino_swinb_cogcoor.pth"),
        ("sam", "sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth"),
        ("bert", "folder with vocab.txt of bert-base-uncased"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=help)
    for name, default, help in (
        ("box_threshold", 0.25, "boxes that score less are left out"),
        ("text_threshold", 0.25, "words that score less do not count as recognised"),
        ("nms_threshold", 0.8, "of two boxes of one thing that overlap by more, the better one stays"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{help}; 0 to 1 {_DEFAULT}")
    _add_device(parser)


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretrained_model_name_or_path",
        type=Path,
        required=True,
        help="checkpoint: a .safetensors or .ckpt file, or a folder in diffusers' layout; nothing is downloaded",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="folder with CLIP's vocab.json and merges.txt, such as comfy/sd1_tokenizer of a ComfyUI; needed with a "
        "single file, which has none",
    )
    parser.add_argument(
        "--prediction_type",
        choices=("epsilon", "v_prediction"),
        help="what the checkpoint predicts, if it is not recognised",
    )


def _add_pair(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--instance_data_dir",
        type=Path,
        required=True,
        help="folder {concept}_{id}+{component}_{id}, such as tower_a+roof_a, with pictures 0_* of the concept and "
        f"1_* of the component, {what}",
    )


def _add_output(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--output_dir", type=Path, required=True, help=f"folder for {what}; nothing in it is overwritten"
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cuda, cuda:1, cpu ...; the first GPU if there is one, if not given")


def _add_knob(parser: argparse.ArgumentParser, name: str, knob: Knob) -> None:
    default = defaults()[name]
    shown: dict[str, Any] = {"default": default, "help": _help(knob, default).replace("%", "%%")}
    if isinstance(default, bool):
        parser.add_argument(f"--{name}", action="store_true", **shown)
    elif isinstance(default, str):
        parser.add_argument(f"--{name}", choices=knob.choices, **shown)
    else:
        parser.add_argument(f"--{name}", type=type(default), metavar="N" if isinstance(default, int) else "X", **shown)


def _help(knob: Knob, default: Any) -> str:
    notes = [knob.symbol and f"{knob.symbol} in the paper"]
    if math.isfinite(knob.high):
        notes.append(f"{knob.low:g} to {knob.high:g} {knob.unit}".strip())
    if not isinstance(default, bool):
        notes.append(f"default: {default}")
    shown = ", ".join(filter(None, notes))
    return f"{knob.help} ({shown})" if shown else knob.help
