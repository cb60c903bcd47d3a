"""The real frontend opens a workflow in a browser and gives back what pressing Run would send."""

import numpy as np
import pytest
from PIL import Image

from tools.workflow import VIEWPORT, MissingNodes, check_layout


def node(node_id: int, kind: str, left: int, widgets: list, inputs=(), outputs=()) -> dict:
    return {
        "id": node_id,
        "type": kind,
        "pos": [left, 100],
        "size": [300, 120],
        "flags": {},
        "order": node_id,
        "mode": 0,
        "inputs": list(inputs),
        "outputs": list(outputs),
        "properties": {},
        "widgets_values": widgets,
    }


def workflow(*nodes: dict, links=()) -> dict:
    last_link = max((link[0] for link in links), default=0)
    return {
        "nodes": list(nodes),
        "links": list(links),
        "version": 0.4,
        "last_node_id": max(item["id"] for item in nodes),
        "last_link_id": last_link,
    }


def latent_saving_workflow(second_node_left: int) -> dict:
    return workflow(
        node(1, "EmptyLatentImage", 100, [96, 64, 2], outputs=[{"name": "LATENT", "type": "LATENT", "links": [1]}]),
        node(
            2,
            "SaveLatent",
            second_node_left,
            ["kept/name"],
            inputs=[{"name": "samples", "type": "LATENT", "link": 1}],
        ),
        links=[[1, 1, 0, 2, 0, "LATENT"]],
    )


def test_the_graph_sent_has_every_widget_value_and_link_and_runs(frontend, server):
    graph = frontend.api_graph(latent_saving_workflow(500))
    assert graph["1"]["inputs"] == {"width": 96, "height": 64, "batch_size": 2}
    assert graph["2"]["inputs"] == {"samples": ["1", 0], "filename_prefix": "kept/name"}
    assert frontend.widget_values()["2"]["filename_prefix"] == "kept/name"
    entry = server.run(graph)
    (saved,) = entry["outputs"]["2"]["latents"]
    assert saved["subfolder"] == "kept"


def test_layout_names_nodes_that_overlap_on_the_canvas(frontend):
    frontend.load(latent_saving_workflow(500))
    assert check_layout(frontend.node_boxes()) == []
    frontend.load(latent_saving_workflow(250))
    assert len(check_layout(frontend.node_boxes())) == 1


def test_missing_node_types_are_named(frontend):
    with pytest.raises(MissingNodes) as caught:
        frontend.api_graph(workflow(node(1, "NoSuchNodeType", 100, []), node(2, "EmptyLatentImage", 500, [64, 64, 1])))
    assert caught.value.names == ["NoSuchNodeType"]


def test_screenshot_shows_the_nodes(frontend, tmp_path):
    frontend.load(latent_saving_workflow(500))
    with Image.open(frontend.screenshot(tmp_path / "shot.png")) as picture:
        assert picture.size == VIEWPORT
        assert np.asarray(picture.convert("L"), dtype=float).std() > 5
