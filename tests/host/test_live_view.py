"""Samples while training and the report afterwards: shown by the real host, and without effect on what is learned."""

import dataclasses
import re
import shutil

import pytest
import torch
from playwright.sync_api import TimeoutError

from tools.models import SD1_CHECKPOINT

SIDE = 64
PROMPT = "<v0> with <v1>"


@pytest.fixture(scope="module")
def pair(nodes, base_dir, rendered_pair):
    shutil.copytree(rendered_pair, base_dir / "input" / rendered_pair.name, dirs_exist_ok=True)
    with torch.inference_mode():
        concept, component = nodes.MagicTailorLoadPair.execute(rendered_pair.name, 1).args[:2]
    # one picture of each is enough to see it
    return [dataclasses.replace(part, images=part.images[:1], masks=part.masks[:1]) for part in (concept, component)]


@pytest.fixture
def train(nodes, loaded_checkpoint, taesd, pair):
    def run(vae=taesd, **settings):
        settings = {"resume": "start over"} | settings
        settings = {"phase1_train_steps": 2, "phase2_train_steps": 1, "resolution": SIDE, "lora_rank": 4} | settings
        settings = {"settings": {"preview_steps": 2}} | settings
        with torch.inference_mode():
            return nodes.MagicTailorTrainV2.execute(
                *loaded_checkpoint[:2], vae, pair[0], {"component 1": pair[1]}, **settings
            ).args

    return run


@pytest.fixture
def shown(host):
    """What the host is told by progress bars: (value, preview)."""
    import comfy.utils

    seen = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **others: seen.append((value, preview)))
    yield seen
    comfy.utils.set_progress_bar_global_hook(None)


def test_samples_are_shown_and_scored_when_due_and_change_nothing_that_is_learned(
    train, shown, nodes, toy_town_vision, monkeypatch, tmp_path
):
    plain, *_, bare_report = train(preview_every=0)
    assert [value for value, preview in shown if preview] == [3]
    shown.clear()
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    told = []
    monkeypatch.setattr(nodes.bridge.host, "show_text", told.append)
    sampled, *_, report = train(preview_every=1, preview_prompt=PROMPT, clip_vision=toy_town_vision[0])
    assert re.search("\nmost like the references after step [123]\n", told[-1])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [value for value, preview in shown if preview] == [1, 2, 3]
    pictures = [picture for _, preview in shown if preview for picture in preview[1:2]]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"preview_{number}.png")
    assert pictures[0].size == pictures[1].size and pictures[0].tobytes() != pictures[1].tobytes()

    assert plain.lora.keys() == sampled.lora.keys()
    assert all(torch.equal(plain.lora[key], sampled.lora[key]) for key in plain.lora)
    for one, other in zip(plain.tokens, sampled.tokens, strict=True):
        assert all(torch.equal(one.rows[key], other.rows[key]) for key in one.rows)

    assert report.ndim == 4 and len(report) == 1 and 0.0 <= report.min() < report.max() <= 1.0
    # without samples the sheet lacks two lines: the samples, and the attention on the first of them
    assert report.shape[1] > bare_report.shape[1] and report.shape[2] == bare_report.shape[2]


class PassedOn:
    """The VAE, with a decode of the test's own."""

    def __init__(self, vae, decode):
        self.vae, self.decode = vae, decode

    def __getattr__(self, name):
        return getattr(self.vae, name)


def test_interrupt_is_obeyed_while_a_sample_is_drawn(train, taesd):
    import comfy.model_management

    decoded = []

    def decode(latents):
        decoded.append(latents)
        comfy.model_management.interrupt_current_processing(True)
        return taesd.decode(latents)

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(PassedOn(taesd, decode), preview_every=10)
    assert len(decoded) == 1


def test_an_interrupt_that_is_an_ordinary_exception_is_obeyed_too(train, taesd, nodes, monkeypatch):
    """As in ComfyUI 0.18."""

    class Stopped(Exception):
        pass

    def decode(latents):
        raise Stopped

    monkeypatch.setattr(nodes.bridge.host, "INTERRUPT", Stopped)
    with pytest.raises(Stopped):
        train(PassedOn(taesd, decode), preview_every=10)


def test_a_sample_that_does_not_fit_into_memory_does_not_cost_the_training(train, taesd, shown):
    def decode(latents):
        raise torch.cuda.OutOfMemoryError("no memory")

    tailoring, *_, report = train(PassedOn(taesd, decode), preview_every=1)
    assert tailoring.finished
    assert [value for value, preview in shown if preview] == [3]
    assert report.std() > 0.1


@pytest.mark.parametrize(("prompt", "message"), [("<v0> with <v2>", "holds <v2>"), ("word " * 80, "80 pieces")])
def test_an_unusable_preview_prompt_is_refused_before_training(train, shown, prompt, message):
    with pytest.raises(ValueError, match=f"^MagicTailor Train, preview_prompt: .*{message}"):
        train(preview_prompt=prompt)
    assert shown == []


QUEUE_TRAINING = """async ([checkpoint, widgets, settings]) => {
    const app = window.app;
    app.graph.clear();
    const add = (type, widgets = {}) => {
        const node = window.LiteGraph.createNode(type);
        app.graph.add(node);
        for (const [name, value] of Object.entries(widgets)) node.widgets.find(w => w.name === name).value = value;
        return node;
    };
    const named = (sockets, name) => sockets.findIndex(s => s.name === name || s.label === name);
    const link = (from, output, to, input) => from.connect(named(from.outputs, output), to, named(to.inputs, input));
    const loader = add("CheckpointLoaderSimple", {ckpt_name: checkpoint}), vae = add("VAELoader", {vae_name: "taesd"});
    const pair = add("MagicTailorLoadPair"), train = add("MagicTailorTrainV2", widgets), shown = add("PreviewImage");
    link(loader, "MODEL", train, "model");
    link(loader, "CLIP", train, "clip");
    link(vae, "VAE", train, "vae");
    link(pair, "concept", train, "concept");
    link(pair, "component", train, "components.component 1");
    link(add("MagicTailorSettings", settings), "settings", train, "settings");
    link(train, "report", shown, "images");
    // what is not in view is not drawn, and what is not drawn shows no picture
    app.canvas.ds.reset();
    train.pos = [80, 80];
    window.trainNode = train;
    await app.queuePrompt(0);
}"""
ON_THE_NODE = """() => ({
    text: (window.trainNode.widgets.find(w => w.name === "$$node-text-preview") || {value: ""}).value,
    pictures: (window.trainNode.imgs || []).map(i => [i.naturalWidth, i.naturalHeight]),
})"""


def test_the_frontend_shows_time_left_sample_and_report_on_the_node(frontend, server, pair):
    widgets = {"phase1_train_steps": 7, "phase2_train_steps": 0, "lora_rank": 4, "preview_every": 1}
    settings = {"preset": "toy town", "preset.phase1_train_steps": 3, "preset.phase2_train_steps": 0}
    settings |= {"preset.resolution": SIDE, "preset.lora_rank": 4, "preset.preview_steps": 1}
    frontend.evaluate(QUEUE_TRAINING, [SD1_CHECKPOINT, widgets, settings])

    def wait_until(condition):
        awaited = f"() => (({ON_THE_NODE})()).{condition}"
        try:
            frontend.on_page(lambda page: page.wait_for_function(awaited, timeout=240_000))
        except TimeoutError:
            log = server.log_file.read_text(errors="replace")[-2000:]
            pytest.fail(f"never {condition} but {frontend.evaluate(ON_THE_NODE)}; the server says: {log}")
        return frontend.evaluate(ON_THE_NODE)

    during = wait_until("pictures.length")
    assert re.match(r"warm-up, step [12] of 3, (\d+ min )?\d+ s left\nloss 0\.\d+", during["text"])
    finished = wait_until("text.startsWith('3 steps in ')")
    # what is not done as the node shows it is said
    assert "MagicTailor Settings: phase1_train_steps 3, " in finished["text"]
    assert "lora_rank" not in finished["text"]
    # the report takes the last live picture's place a moment later
    live_size = ",".join(map(str, during["pictures"][0]))
    after = wait_until(f"pictures.filter(size => size.join() !== '{live_size}').length")
    assert len(during["pictures"]) == len(after["pictures"]) == 1
