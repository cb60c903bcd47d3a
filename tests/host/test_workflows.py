"""What is shipped is what runs: each workflow opened in the real frontend, serialised there, run by the real server."""

import json

import pytest

from tools.build_workflows import CANVASES, WORKFLOWS
from tools.demo import override, small_overrides
from tools.workflow import check_layout

# in this order: the second one draws with what the first one has saved
SHIPPED = ("tailor_concept_and_component", "use_saved_tailoring")
SMALL = small_overrides(steps=(1, 1), resolution=64, sampler_steps=2, size=64)


def written(name):
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def test_every_workflow_is_tested_described_and_has_a_thumbnail():
    names = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    assert names == sorted(SHIPPED) == sorted(CANVASES)
    assert sorted(path.stem for path in WORKFLOWS.glob("*.jpg")) == names


@pytest.mark.parametrize("name", SHIPPED)
def test_it_opens_with_all_its_nodes_and_values_and_nothing_overlaps(frontend, server, name, tmp_path):
    workflow = written(name)
    graph = frontend.api_graph(workflow)
    values = frontend.widget_values()
    for node in workflow["nodes"]:
        assert list(values[str(node["id"])].values()) == node.get("widgets_values", []), node["type"]
    known = server.object_info()
    for node in graph.values():
        described = known[node["class_type"]]["input"]
        required, optional = (set(described.get(group, {})) - {"components"} for group in ("required", "optional"))
        given = {name for name in node["inputs"] if not name.startswith("components.")}
        assert required <= given <= required | optional, node["class_type"]
    frontend.screenshot(tmp_path / f"{name}.png")
    assert check_layout(frontend.node_boxes()) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_its_training_seed_stays_fixed(frontend, name):
    """Else every press of Run would train again."""
    frontend.load(written(name))
    trains = [list(v.values()) for v in frontend.widget_values().values() if "phase1_train_steps" in v]
    assert len(trains) == (name == "tailor_concept_and_component")
    for values in trains:
        assert "fixed" in values and "randomize" not in values


def test_both_run_one_after_the_other_and_draw_the_same(frontend, server, base_dir):
    pictures = {}
    for name in SHIPPED:
        graph = override(frontend.api_graph(written(name)), SMALL)
        entry = server.run(graph, timeout=1200)
        (image,) = server.images(entry)
        pictures[name] = server.fetch_image(image)
        if name == "tailor_concept_and_component":
            shown = {graph[node]["class_type"]: output for node, output in entry["outputs"].items()}
            assert shown["LossGraphNode"]["images"]
            assert "my_tailoring.safetensors" in shown["MagicTailorSave"]["text"][0]
            previews = [o["images"] for n, o in entry["outputs"].items() if graph[n]["class_type"] == "PreviewImage"]
            assert [len(images) for images in previews] == [3, 3, 3, 3]
    assert (base_dir / "models" / "loras" / "my_tailoring.safetensors").is_file()
    assert pixels(pictures[SHIPPED[0]]) == pixels(pictures[SHIPPED[1]])


def pixels(png):
    import io

    from PIL import Image

    return Image.open(io.BytesIO(png)).tobytes()
