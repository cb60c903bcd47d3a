"""Someone's first minutes: finding the nodes, reading their order, and a graph of nothing but defaults that runs."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError

from tools.small_runs import override

TYPED = {
    "train": {"MagicTailor Train"},
    "optimizer": {"MagicTailor Settings"},
    "mask": {"GroundedSAM Masks"},
    "sam": {"Load GroundedSAM", "GroundedSAM Masks"},
    "lora": {"MagicTailor Train", "Save Tailoring", "Load Tailoring", "Apply Tailoring"},
    "attention": {"MagicTailor Attention Maps"},
}
EXAMPLE = "example: house_a+roof_a"

LISTED = "() => [...document.querySelectorAll('[role=option]')].map(e => e.innerText.split('\\n')[0])"
SHOW_DIALOGS = ".p-dialog-mask { display: flex !important; }"  # which the frontend of the tests hides


class SearchBox:
    """What a double click on the canvas opens."""

    PLACEHOLDER = "Add a node..."

    def __init__(self, page):
        self.page = page
        self.input = page.get_by_placeholder(self.PLACEHOLDER)
        # the canvas takes no clicks while the frontend is still loading
        page.wait_for_function("() => !document.querySelector('.p-blockui-mask')")
        page.evaluate("() => window.app.graph.clear()")
        middle = page.viewport_size["width"] / 2, page.viewport_size["height"] / 2
        for _ in range(5):
            page.mouse.dblclick(*middle)
            try:
                return self.input.wait_for(timeout=5000)
            except TimeoutError:  # a busy page took it for two clicks
                continue
        raise AssertionError("no search box opens on a double click")

    def names(self, text):
        """The nodes listed for what is typed."""
        # an empty list in between, so that nothing is left of the one before
        self.input.fill("qqqzzz")
        self.page.wait_for_function("() => !document.querySelector('[role=option]')")
        self.input.fill(text)
        self.page.wait_for_function("() => document.querySelector('[role=option]')")
        return self.page.evaluate(LISTED)


@pytest.fixture
def search(frontend):
    """Does something with the search box of an empty canvas, on the browser's thread, and gives the result."""
    style = frontend.on_page(lambda page: page.add_style_tag(content=SHOW_DIALOGS))
    yield lambda action: frontend.on_page(lambda page: action(SearchBox(page)))

    def close(page):
        page.keyboard.press("Escape")
        page.get_by_placeholder(SearchBox.PLACEHOLDER).wait_for(state="detached")
        style.evaluate("element => element.remove()")

    frontend.on_page(close)


@pytest.fixture(scope="module")
def chain(described):
    """The names of the nodes in the order in which a graph uses them, without those that are kept for old graphs."""
    return [info["display_name"] for info in described.values() if not info.get("deprecated")]


def test_the_words_someone_new_types_find_the_nodes(search, chain):
    typed = TYPED | {word: set(chain) for word in ("magictailor", "tailor")}
    found = search(lambda box: {word: box.names(word) for word in typed})
    assert {word: sorted(expected - set(found[word])) for word, expected in typed.items()} == dict.fromkeys(typed, [])


def test_a_node_kept_for_old_graphs_is_not_offered(search, described):
    old = {info["display_name"] for info in described.values() if info.get("deprecated")}
    assert old
    assert old.isdisjoint(search(lambda box: box.names("train")))


def test_all_stand_in_one_category_in_the_order_of_use(search, frontend, chain, described):
    def of_category(box):
        box.page.locator("#node-search-category-sidebar button", has_text="MagicTailor").click()
        box.page.wait_for_function(
            "() => [...document.querySelectorAll('[role=option]')].every(e => e.innerText.includes('MagicTailor'))"
        )
        return box.page.evaluate(LISTED)

    # the node of the toy town, which only demo and tests have, may follow
    assert search(of_category)[: len(chain)] == chain
    categories = """() => Object.values(window.LiteGraph.registered_node_types)
        .filter(type => type.comfyClass?.startsWith("MagicTailor")).map(type => type.category)"""
    assert frontend.evaluate(categories) == ["MagicTailor"] * len(described)


# every input that has to be connected gets the nearest output of its type, on the left, that is still free
NEW_GRAPH = """async types => {
    const {app, LiteGraph} = window;
    app.graph.clear();
    const added = [], taken = new Set();
    for (const type of types) {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        for (const input of [...node.inputs]) {
            if (input.widget || input.shape === LiteGraph.GRID_SHAPE || input.shape === 7) continue;
            const source = added.findLast(other => other.outputs.some(output => output.type === input.type));
            const fitting = source.outputs.filter(output => output.type === input.type);
            const output = fitting.find(output => !taken.has(output)) ?? fitting[0];
            taken.add(output);
            source.connect(source.outputs.indexOf(output), node, node.inputs.indexOf(input));
        }
        added.push(node);
    }
    return (await app.graphToPrompt()).output;
}"""
LEFT_TO_RIGHT = [
    "CheckpointLoaderSimple",
    "MagicTailorLoadPair",
    "MagicTailorTrainV2",
    "EmptyLatentImage",
    "MagicTailorSampler",
    "VAEDecode",
    "SaveImage",
]
SMALL = {
    "MagicTailorTrainV2": {
        "phase1_train_steps": 1,
        "phase2_train_steps": 0,
        "resolution": 64,
        "preview_every": 0,
    },
    "EmptyLatentImage": {"width": 64, "height": 64},
    "MagicTailorSampler": {"steps": 2},
}


def test_nodes_with_their_defaults_linked_by_type_train_and_draw(frontend, server, checkpoint_name):
    graph = frontend.evaluate(NEW_GRAPH, LEFT_TO_RIGHT)
    inputs = {node["class_type"]: node["inputs"] for node in graph.values()}
    assert inputs["CheckpointLoaderSimple"]["ckpt_name"] == checkpoint_name
    assert inputs["MagicTailorLoadPair"]["folder"] == EXAMPLE
    entry = server.run(override(graph, SMALL))
    (saved,) = server.images(entry)
    assert np.asarray(Image.open(io.BytesIO(server.fetch_image(saved)))).std() > 1


def test_the_example_is_chosen_whatever_lies_in_the_input_folder(server, base_dir):
    mine = base_dir / "input" / "a_without_masks+b"
    mine.mkdir()
    try:
        kind, described = server.object_info("MagicTailorLoadPair")["MagicTailorLoadPair"]["input"]["required"][
            "folder"
        ]
    finally:
        mine.rmdir()
    options = described["options"] if kind == "COMBO" else kind
    assert mine.name in options and EXAMPLE in options
    assert described["default"] == EXAMPLE


def test_where_nothing_is_saved_the_list_says_what_to_do(nodes, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    (tailoring,) = nodes.MagicTailorLoad.define_schema().inputs
    (hint,) = tailoring.options
    assert "save a tailoring" in hint
    with pytest.raises(ValueError, match=r"^Load Tailoring, tailoring: there is no .* save one with Save Tailoring"):
        nodes.MagicTailorLoad.execute(hint)
    assert nodes.MagicTailorLoad.fingerprint_inputs(hint) == hint
