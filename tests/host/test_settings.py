"""MagicTailor Settings: what a preset begins with, what counts, and what a saved workflow keeps of it."""

import dataclasses
import shutil
import uuid

import pytest
import torch

from toytown.settings import SETTINGS

SIDE = 64
SHORT = {"phase1_train_steps": 1, "phase2_train_steps": 1, "resolution": SIDE, "lora_rank": 4}


@pytest.fixture(scope="module")
def references(nodes, base_dir, rendered_pair):
    """The concept and two components, one picture each."""
    shutil.copytree(rendered_pair, base_dir / "input" / rendered_pair.name, dirs_exist_ok=True)
    with torch.inference_mode():
        concept, component = nodes.MagicTailorLoadPair.execute(rendered_pair.name, 1).args[:2]
    parts = [(concept, 0, "house"), (component, 0, "roof"), (component, 1, "chimney")]
    return [
        dataclasses.replace(part, class_word=word, images=part.images[n : n + 1], masks=part.masks[n : n + 1])
        for part, n, word in parts
    ]


@pytest.fixture
def train(nodes, loaded_checkpoint, taesd, references):
    def run(settings=None, components=None, **shown):
        components = components or {"component 1": references[1]}
        with torch.inference_mode():
            return nodes.MagicTailorTrainV2.execute(
                *loaded_checkpoint[:2],
                taesd,
                references[0],
                components,
                preview_every=0,
                settings=settings,
                resume="start over",
                **SHORT | shown,
            ).args[0]

    return run


def settings(nodes, preset, **changed):
    return nodes.MagicTailorSettings.execute({"preset": preset, **changed}).args[0]


def same(one, other):
    return one.lora.keys() == other.lora.keys() and all(torch.equal(one.lora[key], other.lora[key]) for key in one.lora)


def test_presets_begin_with_what_they_are_called_after(nodes, library):
    defaults = library.config.defaults()
    paper = settings(nodes, "paper")
    assert all(paper[name] == defaults[name] for name in paper.keys() & defaults.keys())
    program = settings(nodes, "released program")
    assert program["phase2_learning_rate"] == program["phase1_learning_rate"] == defaults["phase1_learning_rate"]
    town = settings(nodes, "toy town")
    assert {name: town[name] for name in SETTINGS} == SETTINGS
    assert all(town[name] == defaults[name] for name in (town.keys() & defaults.keys()) - SETTINGS.keys())


def test_the_papers_settings_are_what_train_takes_without_any(nodes, train):
    plain = train()
    assert same(plain, train(settings(nodes, "paper")))
    changed = train(settings(nodes, "paper", alpha=0.1, lambda_attention=1.0))
    assert changed.config == dataclasses.replace(plain.config, alpha=0.1, lambda_attention=1.0)
    assert not same(plain, changed)


def test_what_settings_shows_counts_and_the_rest_is_trains(nodes, library, train):
    program = settings(nodes, "released program", phase2_learning_rate=1e-3)
    short = SHORT | {"phase2_train_steps": 0}
    config = train(program, **short, phase1_learning_rate=0.5, phase2_learning_rate=0.5, seed=3).config
    rates = {"phase1_learning_rate": 1e-4, "phase2_learning_rate": 1e-3}
    assert config == library.config.TailorConfig(**short, **rates, seed=3)


def test_a_component_gets_the_token_of_its_number(train, references):
    _, roof, chimney = references
    # a graph written by hand may name them in any order
    tailoring = train(components={"component 2": chimney, "component 1": roof}, phase2_train_steps=0)
    assert tailoring.words == "<v0> = house, <v1> = roof, <v2> = chimney"


NEW_SETTINGS = """async ([id, preset]) => {
    const {app, LiteGraph} = window;
    // the frontend remembers widgets by graph and node id
    await app.loadGraphData({id, version: 0.4, nodes: [], links: [], groups: [], last_node_id: 0, last_link_id: 0});
    const node = LiteGraph.createNode("MagicTailorSettings"), shown = LiteGraph.createNode("PreviewAny");
    app.graph.add(node);
    app.graph.add(shown);
    node.connect(0, shown, 0);
    const set = (name, value) => node.widgets.find(widget => widget.name === name).value = value;
    for (const other of node.widgets[0].options.values) {
        set("preset", other);
        set("preset.alpha", 0.125);  // which choosing a preset takes back
    }
    set("preset", preset);
    set("preset.gamma", 8);
    return app.graph.serialize();
}"""


@pytest.mark.parametrize("preset", ["paper", "released program", "toy town"])
def test_a_preset_fills_the_node_and_a_saved_workflow_keeps_what_was_changed(frontend, server, nodes, preset):
    saved = frontend.evaluate(NEW_SETTINGS, [str(uuid.uuid4()), preset])
    graph = frontend.api_graph(saved)
    (sent,) = [node["inputs"] for node in graph.values() if node["class_type"] == "MagicTailorSettings"]
    expected = settings(nodes, preset, gamma=8.0) | {"memory": "as on Train"}
    assert sent == {"preset": preset} | {f"preset.{name}": value for name, value in expected.items()}
    assert server.run(graph)["status"]["status_str"] == "success"
