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


FOUR_COMPONENTS = """async type => {
    await window.app.loadGraphData({id: crypto.randomUUID(), version: 0.4, nodes: [], links: []});
    const {graph} = window.app;
    const made = kind => graph.add(window.LiteGraph.createNode(kind)) && graph._nodes.at(-1);
    const pairs = [...Array(4)].map(() => made("MagicTailorLoadPair")), train = made(type);
    const inputs = () => train.inputs.map(input => input.name).filter(name => name.startsWith("components."));
    pairs[0].connect(0, train, "concept");
    for (const [n, pair] of pairs.entries()) {
        while (!inputs()[n]) await new Promise(done => setTimeout(done, 50));
        pair.connect(1, train, train.inputs.findIndex(input => input.name === inputs()[n]));
    }
    const report = made("PreviewImage");
    train.connect(3, report, 0);
    window.moved = [...pairs, train, report];
}"""
# the frontend removes inputs that are no longer used a frame later
NEXT_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
MOVED = {
    "into a subgraph": "() => window.app.graph.convertToSubgraph(new Set(window.moved.slice(2, 5)))",
    "into a subgraph and out again": """() => {
        const {graph} = window.app;
        graph.unpackSubgraph(graph.convertToSubgraph(new Set(window.moved.slice(4, 5))).node);
    }""",
    "out of the clipboard": """() => {
        const {canvas, graph} = window.app;
        canvas.selectItems(window.moved);
        canvas.copyToClipboard();
        window.moved.forEach(node => graph.remove(node));
        canvas.pasteFromClipboard();
    }""",
}


def sources(graph: dict) -> dict:
    """What each input of the one Train node comes from: how far down the canvas's nodes, and the output."""
    (train,) = (node for node in graph.values() if node["class_type"].startswith("MagicTailorTrain"))
    links = {name: value for name, value in train["inputs"].items() if isinstance(value, list)}
    loaders = sorted({source for source, _ in links.values()}, key=lambda key: [int(n) for n in key.split(":")])
    return {name: (loaders.index(source), output) for name, (source, output) in links.items()}


@pytest.mark.parametrize(
    ("type", "way"), [*(("MagicTailorTrainV2", way) for way in MOVED), ("MagicTailorTrain", "out of the clipboard")]
)
def test_no_component_is_lost_on_the_way(frontend, type, way):
    """The frontend itself links what it pastes or unpacks by the places of inputs, before it has put them in order."""
    frontend.evaluate(FOUR_COMPONENTS, type)
    frontend.evaluate(NEXT_FRAMES)
    before = sources(frontend.evaluate("async () => (await window.app.graphToPrompt()).output"))
    assert len(before) == 5
    frontend.evaluate(MOVED[way])
    frontend.evaluate(NEXT_FRAMES)
    saved = frontend.evaluate("() => window.app.graph.serialize()")
    assert sources(frontend.api_graph(saved)) == before
