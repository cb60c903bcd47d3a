"""Every node explains itself: tooltips, aliases, a help page that names every input and output."""

import pathlib

import pytest

DOCS = pathlib.Path(__file__).parents[2] / "web" / "docs"


def pack_nodes(server):
    return {name: info for name, info in server.object_info().items() if name.startswith("MagicTailor")}


EXPECTED = {
    "MagicTailorGroundedSAMLoader",
    "MagicTailorGroundedSAM",
    "MagicTailorLoadPair",
    "MagicTailorReference",
    "MagicTailorTrain",
    "MagicTailorSave",
    "MagicTailorLoad",
    "MagicTailorApply",
    "MagicTailorSampler",
    "MagicTailorAttentionMaps",
}


def test_the_ids_are_these_for_ever(server):
    assert set(pack_nodes(server)) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_socket_and_widget_has_a_tooltip_and_the_node_a_description(server, name):
    info = pack_nodes(server)[name]
    assert info["description"] and info["search_aliases"] and info["category"] == "MagicTailor"
    assert all(info["output_tooltips"]) and len(info["output_tooltips"]) == len(info["output"])
    for group in ("required", "optional"):
        for input_name, described in info["input"].get(group, {}).items():
            assert described[1].get("tooltip"), f"{name}.{input_name}"


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_help_page_is_served_and_names_every_input_and_output(server, name):
    import urllib.parse
    import urllib.request

    pack = urllib.parse.quote("ComfyUI-MagicTailor")
    with urllib.request.urlopen(f"{server.url}/extensions/{pack}/docs/{name}.md", timeout=30) as page:
        text = page.read().decode()
    assert text == (DOCS / f"{name}.md").read_text(encoding="utf-8")
    info = pack_nodes(server)[name]
    named = [*info["input"].get("required", {}), *info["input"].get("optional", {}), *info["output_name"]]
    missing = [word for word in named if f"| {word} |" not in text]
    assert missing == []


def test_training_settings_are_those_of_the_config(server):
    from magictailor.config import defaults

    described = pack_nodes(server)["MagicTailorTrain"]["input"]["required"]
    assert {n: o[1]["default"] for n, o in described.items() if "default" in o[1]} == defaults()
