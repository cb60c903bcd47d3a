"""The help page of every node is shown by the real frontend, with a picture of the node as it is now."""

import re
import urllib.parse
import urllib.request

from PIL import Image

from tools.node_pictures import DOCS, MARGIN, PLACE_NODE, SHARPNESS

IMAGE = re.compile(r"!\[[^]]+\]\(([^)]+)\)")


def pictures(node_id):
    return IMAGE.findall((DOCS / f"{node_id}.md").read_text(encoding="utf-8"))


def test_every_node_has_a_page_and_every_page_a_node(described):
    assert sorted(path.stem for path in DOCS.glob("*.md")) == sorted(described)


def test_every_picture_is_on_a_page(described):
    assert sorted(path.name for path in DOCS.glob("*.webp")) == sorted(
        name for node in described for name in pictures(node)
    )


def test_the_server_serves_the_pictures_of_the_page(server, described):
    folder = f"{server.url}/extensions/{urllib.parse.quote('ComfyUI-MagicTailor')}/docs"
    for node in described:
        assert f"{node}.webp" in pictures(node)
        for name in pictures(node):
            with urllib.request.urlopen(f"{folder}/{name}", timeout=30) as answer:
                assert answer.read() == (DOCS / name).read_bytes()


def test_the_picture_shows_as_many_sockets_and_widgets_as_the_node_has(frontend, described):
    for node in described:
        _, _, _, height = frontend.evaluate(PLACE_NODE, [node, SHARPNESS])
        with Image.open(DOCS / f"{node}.webp") as picture:
            assert abs(picture.height - height - 2 * MARGIN) <= 2, f"{node}; run: python -m tools.node_pictures"


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
