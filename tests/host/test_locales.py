"""The node texts the frontend shows: English as the schemas have it, every translation complete and in step with it."""

import json
import re
import urllib.request

import pytest

from tools.locales import MESSAGE_SYNTAX, SOURCE, flat, languages, node_texts, read
from tools.workflow import Frontend

TRANSLATIONS = [language for language in languages() if language != SOURCE]
# terms that Chinese users write like this
SAME_IN_CHINESE = {"CLIP", "VAE", "LoRA", "cfg", "GroundedSAM"}
CHINESE = re.compile("[\u4e00-\u9fff]")
# what a translation has to repeat: token names, file names, numbers
FIXED = re.compile(r"<v\d>|\w+\.(?:pth|txt|png|safetensors)|\d+(?:\.\d+)?(?:e-\d+)?")


def test_english_is_what_the_schemas_say(described):
    assert read(SOURCE) == node_texts(described), "run: python -m tools.locales"


def test_english_and_chinese_are_there():
    assert {SOURCE, "zh"} <= set(languages())


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_has_every_text_and_nothing_more(language):
    assert flat(read(language)).keys() == flat(read(SOURCE)).keys()


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_repeats_tokens_file_names_and_numbers(language):
    translated = flat(read(language))
    for key, text in flat(read(SOURCE)).items():
        if not key.endswith("/name"):
            assert sorted(set(FIXED.findall(text)) - set(FIXED.findall(translated[key]))) == [], key


def test_nothing_is_left_in_english_in_chinese():
    texts = flat(read("zh"))
    assert {key: text for key, text in texts.items() if not CHINESE.search(text) and text not in SAME_IN_CHINESE} == {}


@pytest.mark.parametrize("language", languages())
def test_the_frontend_shows_every_text_as_it_is_written(language):
    assert {k: text for k, text in flat(read(language)).items() if set(text) & set(MESSAGE_SYNTAX)} == {}


def test_the_server_serves_them(server):
    with urllib.request.urlopen(f"{server.url}/i18n", timeout=30) as answer:
        served = json.load(answer)
    for language in languages():
        assert served[language]["nodeDefs"] == read(language)


SHOWN = """async types => {
    const shown = {}, app = window.app;
    for (const type of types) {
        const node = window.LiteGraph.createNode(type);
        shown[type] = {
            title: node.title,
            inputs: Object.fromEntries(node.inputs.map(i => [i.name.replaceAll(".", "_"), i.localized_name])),
            widgets: Object.fromEntries((node.widgets || []).map(w => [w.name.replaceAll(".", "_"), w.label])),
            outputs: node.outputs.map(o => o.localized_name),
        };
    }
    app.graph.clear();
    const train = window.LiteGraph.createNode("MagicTailorTrainV2");
    app.graph.add(train);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [400, 300];
    app.canvas.setDirty(true, true);
    return shown;
}"""
PLACE_OF_FIRST_COMPONENT = """() => {
    const node = window.app.graph._nodes[0], canvas = window.app.canvas;
    const slot = node.inputs.findIndex(input => input.name === "components.component 1");
    const [x, y] = node.getConnectionPos(true, slot), view = canvas.canvas.getBoundingClientRect();
    return [x + canvas.ds.offset[0] + view.left, y + canvas.ds.offset[1] + view.top];
}"""


def tooltip_at(page, x, y):
    page.wait_for_timeout(500)  # the canvas has to be drawn before it knows what is under the mouse
    page.mouse.move(x - 60, y)
    page.mouse.move(x + 3, y)
    return page.wait_for_function("() => document.querySelector('.node-tooltip')?.innerText").json_value()


def test_a_chinese_frontend_shows_titles_sockets_widgets_and_tooltips_in_chinese(server, described):
    texts = read("zh")
    with Frontend(server.url, settings={"Comfy.Locale": "zh"}) as frontend:
        shown = frontend.evaluate(SHOWN, list(described))
        x, y = frontend.evaluate(PLACE_OF_FIRST_COMPONENT)
        tooltip = frontend.on_page(lambda page: tooltip_at(page, x, y))
    assert shown.keys() == texts.keys()
    for node, seen in shown.items():
        expected = texts[node]
        assert seen["title"] == expected["display_name"]
        assert seen["outputs"] == [output["name"] for output in expected["outputs"].values()]
        for name, label in seen["inputs"].items():
            assert label == expected["inputs"][name]["name"], (node, name)
        for name in seen["widgets"].keys() & expected["inputs"].keys():
            assert seen["widgets"][name] == expected["inputs"][name]["name"], (node, name)
    assert tooltip == texts["MagicTailorTrainV2"]["inputs"]["components_component 1"]["tooltip"]
