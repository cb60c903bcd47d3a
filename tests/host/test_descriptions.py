"""Every node explains itself: tooltips, aliases, a help page that names every input and output."""

import json
import pathlib
import re
import urllib.parse
import urllib.request

from magictailor.config import defaults

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "web" / "docs"


def inputs(groups):
    """Every input by name, those that a choice brings included."""
    for group in ("required", "optional"):
        for name, (kind, *options) in groups.get(group, {}).items():
            yield name, options[0]
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for option in options[0]["options"]:
                    yield from inputs(option["inputs"])


def test_the_server_has_the_nodes_of_the_list(described, nodes):
    assert list(described) == [node.GET_SCHEMA().node_id for node in nodes.NODES]
    assert all(name.startswith("MagicTailor") for name in described)


def test_each_file_of_nodes_is_one_node(nodes):
    files = sorted(path.stem for path in (ROOT / "nodes").glob("*.py") if path.stem != "__init__")
    assert sorted(node.__module__.removeprefix(f"{nodes.__name__}.") for node in nodes.NODES) == files


def test_one_file_touches_the_hosts_device_memory_progress_and_interrupt():
    touching = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nodes").rglob("*.py")
        if re.search("model_management|ProgressBar|PromptServer", path.read_text(encoding="utf-8"))
    }
    assert touching == {"nodes/bridge/host.py"}


def test_ids_that_were_ever_shipped_are_still_there(described):
    shipped = set()
    for path in (ROOT / "tests" / "data" / "first_release").glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        shipped |= {node["type"] for node in content["nodes"]} if "nodes" in content else {
            node["class_type"] for node in content.values()
        }  # fmt: skip
    ours = {name for name in shipped if name.startswith("MagicTailor")}
    assert len(ours) > 5 and sorted(ours - set(described)) == []


def test_every_socket_and_widget_has_a_tooltip_and_the_node_a_description(described):
    for node, info in described.items():
        assert info["description"] and info["search_aliases"] and info["category"] == "MagicTailor", node
        assert all(info["output_tooltips"]) and len(info["output_tooltips"]) == len(info["output"]), node
        assert [name for name, options in inputs(info["input"]) if not options.get("tooltip")] == [], node


def test_the_help_page_is_served_and_names_every_input_and_output(server, described):
    pack = urllib.parse.quote("ComfyUI-MagicTailor")
    for node, info in described.items():
        with urllib.request.urlopen(f"{server.url}/extensions/{pack}/docs/{node}.md", timeout=30) as page:
            text = page.read().decode()
        assert text == (DOCS / f"{node}.md").read_text(encoding="utf-8")
        named = [*dict(inputs(info["input"])), *info["output_name"]]
        assert [word for word in named if f"| {word} |" not in text] == [], node


def test_every_setting_of_training_stands_on_train_or_on_settings(described):
    train, settings = (described[f"MagicTailor{name}"]["input"] for name in ("TrainV2", "Settings"))
    on_train = {name: options["default"] for name, options in inputs(train) if name in defaults()}
    (_, preset), *_ = settings["required"].values()
    shown = {option["key"]: dict(inputs(option["inputs"])) for option in preset["options"]}
    beside = {name: options["default"] for name, options in shown["paper"].items() if name in defaults()}
    # Settings may say otherwise what Train chooses by itself
    assert beside.pop("memory") == "as on Train"
    assert on_train | beside == defaults() and not on_train.keys() & beside.keys()
    assert all(beside.keys() <= others.keys() for others in shown.values())
