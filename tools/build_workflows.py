"""Writes workflows/*.json, their thumbnails and subgraphs/*.json with the real frontend.

The canvases are in `shipped_workflows`, the subgraphs in `blueprints`.

Run as `python -m tools.build_workflows` after a node's inputs have changed; the result is committed. A workflow's
thumbnail is a picture of its canvas, or the picture of a run when a folder of those is given.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile

from PIL import Image, ImageOps

from .blueprints import BLUEPRINTS
from .canvas import MAKE_GRAPH
from .comfyui import PACK_ROOT, ComfyServer, locate_comfyui, make_base_dir
from .input_pictures import write_input_pictures
from .shipped_workflows import (
    CANVASES,
    CHECKPOINT,
    CLIP_VISION,
    CONTROLNET,
    SAM3_CHECKPOINT,
    STYLE_LORA,
    TAILORING,
    UPSCALER,
)
from .workflow import Frontend, check_layout

WORKFLOWS = PACK_ROOT / "workflows"
SUBGRAPHS = PACK_ROOT / "subgraphs"
THUMBNAIL_SIZE = (640, 400)
# where a workflow opens: its first groups, large enough to read
FIRST_VIEW = {"scale": 0.8, "offset": [80, 80]}
# only their names are needed, so that the canvas does not mark them as missing
LISTED_FILES = (
    f"checkpoints/{CHECKPOINT}",
    f"checkpoints/{SAM3_CHECKPOINT}",
    f"clip_vision/{CLIP_VISION}",
    f"controlnet/{CONTROLNET}",
    f"loras/{STYLE_LORA}",
    f"loras/{TAILORING}",
    f"upscale_models/{UPSCALER}",
    "grounding-dino/groundingdino_swint_ogc.pth",
    "sams/sam_vit_h_4b8939.pth",
)
LISTED_PAIR = "tower_a+roof_a+door_a"


def write_workflows(frontend: Frontend, names: list[str], screenshots: pathlib.Path) -> None:
    """Write the workflow files of `names`, a picture of each canvas into `screenshots`, and print what overlaps."""
    for name in names:
        workflow = frontend.evaluate(MAKE_GRAPH, CANVASES[name]().as_dict())
        workflow["extra"]["ds"] = FIRST_VIEW
        path = WORKFLOWS / f"{name}.json"
        path.write_text(_as_text(workflow), encoding="utf-8")
        frontend.load(path)
        frontend.screenshot(screenshots / f"{name}.png")
        for fault in check_layout(frontend.node_boxes()):
            print(f"{name}: {fault}")
        print(path)


def write_blueprints(frontend: Frontend) -> None:
    """Write the files of all blueprints."""
    for name, blueprint in BLUEPRINTS.items():
        path = SUBGRAPHS / f"{name}.json"
        path.write_text(_as_text(blueprint().made(frontend)), encoding="utf-8")
        print(path)


def _as_text(workflow: dict) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def write_thumbnail(name: str, picture: pathlib.Path) -> None:
    """Write the thumbnail of a workflow: the whole picture, in the middle of a white ground."""
    with Image.open(picture) as opened:
        fitted = ImageOps.pad(opened.convert("RGB"), THUMBNAIL_SIZE, Image.Resampling.LANCZOS, "white")
    fitted.save(WORKFLOWS / f"{name}.jpg", quality=85, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="build_workflows", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", choices=[[], *CANVASES], help="workflows to write; left out: all, and the blueprints"
    )
    parser.add_argument("--runs", type=pathlib.Path, help="folder with pictures of runs, <workflow>.png")
    parser.add_argument("--screenshots", type=pathlib.Path, help="keep the full pictures of the canvases here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = make_base_dir(folder)
        for name in LISTED_FILES:
            path = base / "models" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (base / "input" / LISTED_PAIR).mkdir()
        write_input_pictures(base / "input")
        screenshots = options.screenshots or base / "screenshots"
        names = options.names or list(CANVASES)
        with ComfyServer(locate_comfyui(), base) as server, Frontend(server.url) as frontend:
            write_workflows(frontend, names, screenshots)
            if not options.names:
                write_blueprints(frontend)
        for name in names:
            run = options.runs / f"{name}.png" if options.runs else None
            write_thumbnail(name, run if run and run.is_file() else screenshots / f"{name}.png")


if __name__ == "__main__":
    main()
