"""Writes web/docs/<node id>.webp: each node as a new canvas shows it, for its help page.

Run as `python -m tools.node_pictures` after a node's inputs, outputs or widgets have changed; the result is committed.
"""

from __future__ import annotations

import io
import pathlib
import tempfile
from collections.abc import Iterable

from PIL import Image

from .comfyui import PACK_ROOT, ComfyServer, locate_comfyui, make_base_dir
from .workflow import Frontend

DOCS = PACK_ROOT / "web" / "docs"
# only their names are needed: the lists on the nodes show them
LISTED_FILES = (
    "grounding-dino/groundingdino_swint_ogc.pth",
    "loras/my_tailoring.safetensors",
    "sams/sam_vit_h_4b8939.pth",
)
VIEW = (1200, 1400)
MARGIN = 12  # pixels around the node
SHARPNESS = 1.5  # pixels per canvas unit

PLACE_NODE = """([type, sharpness]) => {
    const {graph, canvas} = window.app;
    graph.clear();
    const node = window.LiteGraph.createNode(type);
    node.pos = [0, 0];
    graph.add(node);
    canvas.ds.scale = sharpness;
    canvas.ds.offset = [40, 60];
    canvas.low_quality_zoom_threshold = 0;
    canvas.setDirty(true, true);
    const title = window.LiteGraph.NODE_TITLE_HEIGHT, view = canvas.canvas.getBoundingClientRect();
    return [40 * sharpness + view.left, (60 - title) * sharpness + view.top, node.size[0] * sharpness,
        (node.size[1] + title) * sharpness];
}"""


def picture_of(frontend: Frontend, node_id: str) -> Image.Image:
    """A new node of this type, cut out of the canvas."""
    left, top, width, height = frontend.evaluate(PLACE_NODE, [node_id, SHARPNESS])
    clip = {"x": left - MARGIN, "y": top - MARGIN, "width": width + 2 * MARGIN, "height": height + 2 * MARGIN}

    def shot(page):
        page.wait_for_timeout(500)  # widgets that are page elements follow the canvas a frame or two later
        return page.screenshot(clip=clip)

    return Image.open(io.BytesIO(frontend.on_page(shot))).convert("RGB")


def write_pictures(frontend: Frontend, node_ids: Iterable[str], folder: pathlib.Path) -> None:
    """A picture of each of these nodes."""
    for node_id in node_ids:
        path = folder / f"{node_id}.webp"
        picture_of(frontend, node_id).save(path, quality=80, method=6)
        print(path)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = make_base_dir(folder)
        for name in LISTED_FILES:
            path = base / "models" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        with (
            ComfyServer(locate_comfyui(), base) as server,
            Frontend(server.url, VIEW, {"Comfy.NodeBadge.NodeSourceBadgeMode": "None"}) as frontend,
        ):
            write_pictures(frontend, server.pack_nodes(), DOCS)


if __name__ == "__main__":
    main()
