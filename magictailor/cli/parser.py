"""The command line's arguments. Those of training are generated from `TailorConfig`; torch is not needed here."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from ..config import CONTINUE, RESUME, Knob, TailorConfig, defaults, knobs

_DEFAULT = "(default: %(default)s)"


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m magictailor`; `command` of what it gives is "train", "sample", "masks" or "batch"."""
    top = argparse.ArgumentParser(
        prog="python -m magictailor",
        description="Learn a concept and its components from a few pictures, and draw them, without ComfyUI.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="train | sample | masks | batch")
    _train(commands.add_parser("train", help="learn the pictures of a folder"))
    _sample(commands.add_parser("sample", help="draw with what was learned"))
    _masks(commands.add_parser("masks", help="make the masks of a folder from words"))
    _batch(commands.add_parser("batch", help="learn many pairs with many settings, and compare what they draw"))
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
    parser.add_argument(
        "--reference_pictures",
        action="store_true",
        help="keep small copies of the pictures and masks in the tailoring's file, 64 kB at most, to score what is "
        "drawn where they are not at hand; whoever has the file sees them",
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


def _batch(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Learn many pairs with many settings, draw with each, and show all results in a table (results.csv), a contact "
        "sheet and a page (results.html). What is done is never done again: the same command goes on where it stopped. "
        "What a flag says counts in place of what the study says."
    )
    parser.add_argument(
        "study",
        type=Path,
        help="a folder of pair folders, or a YAML file with any of: pairs, checkpoint, tokenizer, prediction_type, "
        "imports, settings, grid, drawing",
    )
    _add_checkpoint(parser, required=False)
    parser.add_argument(
        "--output_dir",
        type=_folder_or_address,
        required=True,
        help="folder for tailorings, pictures and results, or the address of one that fsspec knows, such as "
        "s3://bucket/study; of an earlier call only table, contact sheet and page are replaced",
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        metavar="NAME=VALUE",
        help="settings of all trainings, by the names of train's flags: phase1_train_steps=100",
    )
    parser.add_argument(
        "--grid",
        nargs="+",
        metavar="NAME=VALUE,VALUE",
        help="settings to compare: lora_rank=16,32 seed=0,1 trains every pair four times",
    )
    parser.add_argument("--prompts", nargs="+", help="what to draw; <v0> with <v1> if not given")
    parser.add_argument("--seeds", nargs="+", type=int, help="of the noise, for each prompt (default: 0)")
    for name, kind, help in (
        ("steps", int, "DDIM steps (default: 50)"),
        ("cfg", float, "how closely to follow the prompt (default: 7.5)"),
        ("negative_prompt", str, "what not to draw"),
        ("width", int, "in pixels; the checkpoint's own if not given"),
        ("height", int, "in pixels; the checkpoint's own if not given"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=help)
    parser.add_argument(
        "--encoders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="networks that score every picture: folders of CLIP or DINOv2 in transformers' layout",
    )
    parser.add_argument("--device", help="cuda, cuda:1, cpu; all GPUs if there are any, if not given")
    parser.add_argument(
        "--workers", type=int, default=0, help="trainings at a time; one for each GPU, or each core, if not given"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="do it on a Ray cluster, auto or host:port; all its machines have to see --output_dir and all inputs by "
        "the same paths",
    )
    parser.add_argument("--cpus_per_job", type=float, default=1.0, help=f"on Ray {_DEFAULT}")
    parser.add_argument(
        "--gpus_per_job",
        type=float,
        default=0.0,
        help=f"on Ray; 0.5: two share one, 0: on the CPU {_DEFAULT}",
    )
    parser.add_argument(
        "--asha_grace_period",
        type=int,
        default=0,
        metavar="STEPS",
        help="on Ray, with --encoders: judge every training by what it draws after so many steps, and again after "
        "--asha_reduction_factor times as many; of the settings of a pair only the best of each time go on (ASHA). 0 "
        f"trains all to the end {_DEFAULT}",
    )
    parser.add_argument(
        "--asha_reduction_factor",
        type=float,
        default=4.0,
        metavar="N",
        help=f"one of N goes on, and the next time is after N times as many steps {_DEFAULT}",
    )


def _folder_or_address(text: str) -> Path | str:
    return text if "://" in text else Path(text)


def _add_checkpoint(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--pretrained_model_name_or_path",
        type=Path,
        required=required,
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
