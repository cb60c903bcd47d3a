"""Runs shipped workflows with the tailoring that the demo has left, and keeps a picture of each run for thumbnails.

Run as `python -m toytown.gallery --out FOLDER` after the demo, then `python -m tools.build_workflows --runs FOLDER`.
Workflows that need a model the toy town does not have (SAM 3, ControlNet, a style, a thing of two parts) are left out.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import pathlib
import shutil

import numpy as np
from PIL import Image

from tools.build_workflows import WORKFLOWS
from tools.comfyui import PACK_ROOT, STATE_DIR, ComfyServer, locate_comfyui
from tools.models import UPSCALER
from tools.upscaler import make_upscaler
from tools.workflow import Frontend

from .demo import in_toy_town, nodes_of
from .looks import COLOURS, Look
from .pairs import SHOWN, Pair, masked_pictures
from .sheet import Row, outlined, sheet
from .world import Picture, Scene, render

SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Run:
    """How a workflow is run and shown.

    Attributes:
        title: of what it draws; `SHEET` if that is a sheet itself.
        prompts: texts in place of those the workflow comes with, in which words stand that the toy town does not know.
        begins: what is shown above: the painted "pictures", the references of the "component", the "example", the
            "previews" of the run; or nothing.
        seeds: one run each.
    """

    title: str
    prompts: dict[str, str] = dataclasses.field(default_factory=dict)
    begins: str = ""
    seeds: tuple[int, ...] = SEEDS


# whose loader makes the toy town known to the library: Load Tailoring may come before it in a graph
LOADED = {
    "loader": {"class_type": "ToyTownLoader", "inputs": {}},
    "latents": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "decoded": {"class_type": "VAEDecode", "inputs": {"samples": ["latents", 0], "vae": ["loader", 2]}},
    "shown": {"class_type": "PreviewImage", "inputs": {"images": ["decoded", 0]}},
}
SHEET = "the picture as it is"
RUNS = {
    "04_tailor_with_painted_masks": Run("<v0> with <v1>", begins="pictures", seeds=(0,)),
    "02_use_saved_tailoring": Run("Drawn by stock nodes from the saved files"),
    "06_draw_component_alone": Run("A photo of <v1>", begins="component"),
    "09_draw_larger": Run("Second passes", {"<v0> with <v1>, in a meadow": "<v0> with <v1> on the grass"}, seeds=(0,)),
    "10_redraw_picture": Run("Drawn over: <v0> with <v1>", begins="example"),
    "11_inpaint_component": Run("Inside the painted place: a house with <v1>", begins="example"),
    "13_score_and_pick": Run("The two that were picked", begins="previews", seeds=(0,)),
    "14_compare_strengths": Run(SHEET, seeds=(0,)),
    "12_compare_before_and_after": Run("Before and after", {"house with roof": "a house with a roof"}, seeds=SEEDS[:2]),
}


def main() -> None:
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    base = STATE_DIR / "demo"
    shutil.copy(newest_sheet(), options.out / "01_tailor_concept_and_component.png")
    make_upscaler(base / "models" / "upscale_models" / UPSCALER)
    pictures = painted_pictures(SHOWN)
    for name, (picture, mask) in pictures.items():
        write_painted(base / "input" / name, picture, mask)
    with ComfyServer(locate_comfyui(), base) as server, Frontend(server.url) as frontend:
        server.run(LOADED, timeout=600)
        for name in options.names or RUNS:
            graph = in_toy_town(frontend.api_graph(WORKFLOWS / f"{name}.json"), SHOWN)
            run = RUNS[name]
            entries = [server.run(prepared(graph, run, seed), timeout=3600) for seed in run.seeds]
            drawn, previews = (
                [
                    Image.open(io.BytesIO(server.fetch_image(image))).convert("RGB")
                    for entry in entries
                    for image in server.images(entry, kind)
                ]
                for kind in ("output", "temp")
            )
            above = [_row("Drawn", previews)] if run.begins == "previews" else first_rows(run.begins, pictures)
            shown = drawn[0] if run.title == SHEET else sheet([*above, _row(run.title, drawn)])
            shown.save(options.out / f"{name}.png")
            print(options.out / f"{name}.png", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m toytown.gallery", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the pictures")
    parser.add_argument("--names", nargs="+", choices=RUNS, metavar="WORKFLOW", help="all when left out")
    return parser.parse_args()


def newest_sheet() -> pathlib.Path:
    """The sheet of the last demo. Raises FileNotFoundError when there is none."""
    sheets = sorted((PACK_ROOT / "demo_output").glob("*/sheet.png"))
    if not sheets:
        raise FileNotFoundError("Run the demo first: python3 -m nox -s demo")
    return sheets[-1]


def painted_pictures(pair: Pair) -> dict[str, tuple[Picture, np.ndarray]]:
    """The pictures that the workflows load, by file name, each with what is painted on it."""
    concept, component = masked_pictures(pair)
    plain = render(Scene("house", Look(COLOURS["brown"]), Look(COLOURS["gray"]), "grass", 12))
    # generously, as the workflow says
    top = np.zeros_like(plain.part)
    rows, columns = np.nonzero(plain.part)
    top[max(rows.min() - 4, 0) : rows.max() + 2, max(columns.min() - 4, 0) : columns.max() + 5] = True
    return {
        "concept_1.png": concept[0],
        "concept_2.png": concept[1],
        "component_1.png": component[0],
        "component_2.png": component[1],
        "example.png": (plain, top & ~plain.body),
    }


def write_painted(path: pathlib.Path, picture: Picture, mask: np.ndarray) -> None:
    """As ComfyUI's mask editor leaves it: what is painted is transparent."""
    alpha = np.where(mask, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([picture.pixels, alpha])).save(path)


def prepared(graph: dict, run: Run, seed: int) -> dict:
    """The graph with a run's seed and prompts."""
    graph = copy.deepcopy(graph)
    for node in graph.values():
        for name, value in node["inputs"].items():
            if name in ("text", "prompt") and isinstance(value, str) and value in run.prompts:
                node["inputs"][name] = run.prompts[value]
        if node["class_type"] in ("KSampler", "MagicTailorSampler") and not isinstance(node["inputs"]["seed"], list):
            node["inputs"]["seed"] = seed
    for number in nodes_of(graph, "PrimitiveInt"):
        graph[number]["inputs"]["value"] = seed
    return graph


def first_rows(begins: str, pictures: dict[str, tuple[Picture, np.ndarray]]) -> list[Row]:
    """What a run begins with."""
    words, component = SHOWN.class_words, masked_pictures(SHOWN)[1]
    shown = {
        "": [],
        "component": [(words[1], *entry) for entry in component],
        "pictures": [(words[name.startswith("component")], *pictures[name]) for name in list(pictures)[:4]],
        "example": [("painted", *pictures["example.png"])],
    }[begins]
    if not shown:
        return []
    title = "The picture, painted" if begins == "example" else "Learned from, outside their masks faded"
    return [Row(title, [outlined(p.pixels, mask) for _, p, mask in shown], [caption for caption, _, _ in shown])]


def _row(title: str, drawn: list[Image.Image]) -> Row:
    return Row(title, [np.array(picture) for picture in drawn], [f"{p.width} x {p.height}" for p in drawn])


if __name__ == "__main__":
    main()
