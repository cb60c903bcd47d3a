"""The help page of every node is shown by the real frontend, with a picture of the node as it is now."""

import re
import urllib.parse
import urllib.request

import pytest
from PIL import Image

from tools.node_pictures import DOCS, MARGIN, NODE_IDS, PLACE_NODE, SHARPNESS

NODES = sorted(path.stem for path in DOCS.glob("*.md"))
IMAGE = re.compile(r"!\[[^]]+\]\(([^)]+)\)")


def pictures(node_id):
    return IMAGE.findall((DOCS / f"{node_id}.md").read_text(encoding="utf-8"))


def test_every_node_has_a_page_and_every_page_a_node(frontend):
    assert sorted(frontend.evaluate(NODE_IDS)) == NODES


def test_every_picture_is_on_a_page():
    assert sorted(path.name for path in DOCS.glob("*.webp")) == sorted(
        name for node in NODES for name in pictures(node)
    )


@pytest.mark.parametrize("node_id", NODES)
def test_the_server_serves_the_pictures_of_the_page(server, node_id):
    assert f"{node_id}.webp" in pictures(node_id)
    folder = f"{server.url}/extensions/{urllib.parse.quote('ComfyUI-MagicTailor')}/docs"
    for name in pictures(node_id):
        with urllib.request.urlopen(f"{folder}/{name}", timeout=30) as answer:
            assert answer.read() == (DOCS / name).read_bytes()


@pytest.mark.parametrize("node_id", NODES)
def test_the_picture_shows_as_many_sockets_and_widgets_as_the_node_has(frontend, node_id):
    _, _, _, height = frontend.evaluate(PLACE_NODE, [node_id, SHARPNESS])
    with Image.open(DOCS / f"{node_id}.webp") as picture:
        assert abs(picture.height - height - 2 * MARGIN) <= 2, "run: python -m tools.node_pictures"


def test_the_frontend_shows_the_page_with_its_picture(frontend):
    left, top, width, _ = frontend.evaluate(PLACE_NODE, ["MagicTailorReference", SHARPNESS])

    def shown(page):
        page.wait_for_timeout(500)  # the canvas has to be drawn before it can be clicked
        page.mouse.click(left + width / 2, top + 10)
        page.locator("[data-testid=info-button]").dispatch_event("click")
        picture = page.locator(".node-help-content img")
        picture.wait_for(state="attached")
        page.wait_for_function("() => document.querySelector('.node-help-content img').complete")
        address, wide = picture.evaluate("image => [image.getAttribute('src'), image.naturalWidth]")
        return address, wide, page.locator(".node-help-content").text_content()

    address, wide, text = frontend.on_page(shown)
    with Image.open(DOCS / "MagicTailorReference.webp") as picture:
        assert wide == picture.width
    assert address == "/extensions/ComfyUI-MagicTailor/docs/MagicTailorReference.webp"
    assert "The crop is a square around the mask" in text
