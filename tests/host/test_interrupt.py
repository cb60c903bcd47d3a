"""The host's interrupt stops training within a step, frees it, and leaves a host that works."""

import gc
import threading

import pytest
import torch


def training_graph(checkpoint, pair, warm_up, ds_bal):
    settings = {"phase1_train_steps": warm_up, "phase2_train_steps": ds_bal, "resolution": 64, "lora_rank": 4}
    settings |= {"preview_every": 0, "resume": "start over"}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "VAELoader", "inputs": {"vae_name": "taesd"}},
        "3": {"class_type": "MagicTailorLoadPair", "inputs": {"folder": pair, "component_number": 1}},
        "4": {
            "class_type": "MagicTailorTrainV2",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "vae": ["2", 0],
                "concept": ["3", 0],
                "components.component 1": ["3", 1],
                **settings,
            },
        },
        "5": {"class_type": "LossGraphNode", "inputs": {"loss": ["4", 2], "filename_prefix": "loss"}},
    }


@pytest.mark.parametrize(("phase", "warm_up", "ds_bal", "stop_at"), [("warm-up", 100, 0, 2), ("DS-Bal", 1, 99, 3)])
def test_interrupt_stops_within_a_step_and_the_next_run_works(
    server, one_each, checkpoint_name, phase, warm_up, ds_bal, stop_at
):
    def graph(*steps):
        made = training_graph(checkpoint_name, one_each.name, *steps)
        made["4"]["inputs"] = server.default_inputs("MagicTailorTrainV2") | made["4"]["inputs"]
        return made

    seen, reached = [], threading.Event()

    def watch(node, step, total):
        if node == "MagicTailorTrainV2" and total:
            seen.append(step)
            if step >= stop_at:
                reached.set()

    def interrupt():
        reached.wait(600)
        seen.append("interrupt")
        server.interrupt()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(RuntimeError, match="interrupt"):
        server.run(graph(warm_up, ds_bal), on_progress=watch)
    after = seen[seen.index("interrupt") + 1 :]
    assert len(set(after) - set(seen[: seen.index("interrupt")])) <= 1
    entry = server.run(graph(1, 1))
    assert entry["status"]["status_str"] == "success"


def test_nothing_of_the_training_stays_in_memory(nodes, library, loaded_checkpoint, taesd, rendered_pair):
    import comfy.model_management
    import comfy.utils
    from diffusers import UNet2DConditionModel

    def alive():
        gc.collect()
        return sum(isinstance(thing, UNet2DConditionModel) for thing in gc.get_objects())

    concept, component = (part.reference() for part in library.load_pair(rendered_pair))
    before, at_step_2 = alive(), []

    def hook(value, total, preview, node_id=None, **others):
        if value == 2:
            at_step_2.append(alive())
            comfy.model_management.interrupt_current_processing(True)

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        with torch.inference_mode():
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                nodes.MagicTailorTrainV2.execute(
                    *loaded_checkpoint[:2], taesd, concept, {"component 1": component},
                    phase1_train_steps=1, phase2_train_steps=5, resolution=64, lora_rank=4, resume="start over",
                )  # fmt: skip
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert at_step_2 == [before + 1]
    assert alive() == before
