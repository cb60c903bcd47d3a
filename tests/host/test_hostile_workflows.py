"""A workflow from a stranger: whatever names stand in its texts and choices, nothing elsewhere is read or written.

Goes over all nodes as the server describes them, so that a new one is tried too.
"""

import ctypes
import os
import re
import shutil
import struct
import sys

import pytest

EXAMPLE = "example: house_a+roof_a"
# where a socket of a type gets what it needs; a new type needs a line here
SOURCES = {
    "MODEL": ["town", 0],
    "CLIP": ["town", 1],
    "VAE": ["town", 2],
    "IMAGE": ["image", 0],
    "MASK": ["mask", 0],
    "LATENT": ["latents", 0],
    "MAGICTAILOR_REFERENCE": ["pair", 0],
    "MAGICTAILOR_TAILORING": ["train", 0],
    "MAGICTAILOR_GROUNDED_SAM": ["masks", 0],
}
SMALL = {"phase1_train_steps": 1, "phase2_train_steps": 0, "resolution": 64, "lora_rank": 1, "preview_every": 0}
SMALL |= {"steps": 1, "folder": EXAMPLE, "class_word": "house", "find": "house", "component_number": 1}
SMALL |= {"when_nothing_found": "empty mask", "box_threshold": 1.0, "prompt": "<v0>", "name": "mine"}


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def widgets(groups):
    """(name, kind, options) of every input; of a choice that brings others, those of the first."""
    for group in ("required", "optional"):
        for name, (kind, *options) in groups.get(group, {}).items():
            yield name, kind, options[0] if options else {}
            if kind == "COMFY_DYNAMICCOMBO_V3":
                yield from ((f"{name}.{n}", k, o) for n, k, o in widgets(options[0]["options"][0]["inputs"]))


def values(kind, options):
    return options.get("options") or (kind if isinstance(kind, list) else [])


def is_choice(kind):
    return isinstance(kind, list) or kind in ("COMBO", "COMFY_DYNAMICCOMBO_V3")


def default(name, kind, options):
    """What a person would leave a widget at, or small."""
    if name.rpartition(".")[2] in SMALL:
        return SMALL[name.rpartition(".")[2]]
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return options["options"][0]["key"]
    if "default" in options:
        return options["default"]
    return next(iter(values(kind, options)), "")


def inputs_of(described):
    inputs = {}
    for name, kind, options in widgets(described["input"]):
        if kind == "COMFY_AUTOGROW_V3":
            # what it holds is a socket of one of our types
            names = options["template"].get("names") or [options["template"]["prefix"] + "0"]
            inputs[f"{name}.{names[0]}"] = ["pair", 1]
        elif is_choice(kind) or kind in ("INT", "FLOAT", "BOOLEAN", "STRING"):
            inputs[name] = default(name, kind, options)
        elif kind in SOURCES:
            inputs[name] = SOURCES[kind]
        else:
            assert name in described["input"].get("optional", {}), f"SOURCES lacks {kind}"
    return inputs


@pytest.fixture(scope="module")
def graph_of(described):
    """A graph in which a node runs, with an input changed."""

    def graph_of(name, changed=None, value=None):
        def made(class_type):
            return node(class_type, **inputs_of(described[class_type]))

        return {
            "town": node("ToyTownLoader"),
            "pair": made("MagicTailorLoadPair"),
            "masks": made("MagicTailorGroundedSAMLoader"),
            # strips, which Grounding DINO does not enlarge as much
            "image": node("EmptyImage", width=320, height=48, batch_size=1, color=0),
            "mask": node("SolidMask", value=1.0, width=320, height=48),
            "latents": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "train": made("MagicTailorTrainV2"),
            "tried": node(name, **inputs_of(described[name]) | ({changed: value} if changed else {})),
            "seen": node("PreviewAny", source=["tried", 0]),
        }

    return graph_of


@pytest.fixture(scope="module")
def outside(base_dir, server, graph_of, tmp_path_factory):
    """A folder with a good tailoring, pair and run, to which links lead from where the host looks."""
    server.run(graph_of("MagicTailorSave", "name", "whole"))
    folder = tmp_path_factory.mktemp("outside")
    (left,) = (base_dir / "models" / "loras").glob("whole.safetensors")
    left.rename(folder / "secret.safetensors")
    shutil.copytree(
        base_dir / "custom_nodes" / "ComfyUI-MagicTailor" / "example_pairs" / "house_a+roof_a", folder / "x_a+y_a"
    )
    run = max((base_dir / "output" / "magictailor" / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    shutil.copytree(run, folder / "run-0")
    inside = base_dir / "input" / "own_a+own_b"
    inside.mkdir()
    links = {
        base_dir / "input" / "linked_a+linked_b": folder / "x_a+y_a",
        inside / "0_own.jpg": folder / "x_a+y_a" / "0_house_a0.jpg",
        inside / "1_own.jpg": folder / "x_a+y_a" / "1_roof_a0.jpg",
        run.parent / "linked-run": folder / "run-0",
        base_dir / "models" / "loras" / "linked": folder,
        base_dir / "models" / "embeddings" / "linked": folder,
    }
    for link, target in links.items():
        link.symlink_to(target)
    yield folder
    for link in links:
        link.unlink()
    inside.rmdir()


def hostile(outside, base_dir):
    """Names of what lies outside, as they could be written."""
    climbing = "/".join([".."] * 12)
    for name in ("secret.safetensors", "x_a+y_a", "run-0"):
        yield str(outside / name)
        yield f"{climbing}{outside / name}"
        yield f"{climbing}{outside / name}".replace("/", "\\")
    yield from (r"C:\outside\x_a+y_a", r"\\server\share\secret.safetensors", "//server/share/secret.safetensors")


LINKS = ["linked_a+linked_b", "own_a+own_b", "linked-run", "linked/mine"]


# what else JSON can hold where a name is expected; a link to no node ends the host's own thread
NO_NAMES = [5, True, {"a": 1}, [], [["x"]], "\ud800", "x" * 5000, ""]


class Watch:
    """What is opened, made or changed below a folder, by any process."""

    OF_FOLDER = 0x40000000
    EVENTS = 0x20 | 0x2 | 0x100 | 0x200  # open, modify, create, delete: man 7 inotify

    def __init__(self, folder):
        self.system = ctypes.CDLL(None, use_errno=True)
        self.file = self.system.inotify_init1(os.O_NONBLOCK)
        for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            assert self.system.inotify_add_watch(self.file, os.fsencode(path), self.EVENTS) >= 0

    def seen(self):
        """Names since the last call."""
        try:
            events = os.read(self.file, 2**16)
        except BlockingIOError:
            return []
        names = []
        while events:
            _, event, _, length = struct.unpack_from("iIII", events)
            # the host lists folders of models through links
            if not event & self.OF_FOLDER:
                names.append(events[16 : 16 + length].rstrip(b"\0").decode())
            events = events[16 + length :]
        return names


def written(base_dir):
    """Files where nothing of ours belongs."""
    ours = ("output", "models/loras", "models/embeddings", "temp", "user")
    own = [base_dir / name for name in ours]
    return {
        path
        for path in base_dir.rglob("*")
        if "__pycache__" not in path.parts and not any(path.is_relative_to(folder) for folder in own)
    }


@pytest.mark.skipif(sys.platform != "linux", reason="who opens a file is told by Linux alone (inotify)")
def test_nothing_elsewhere_is_read_or_written(server, base_dir, described, graph_of, outside):
    before, watch = written(base_dir), Watch(outside)
    tried, accepted = 0, []

    def refused(name, field, value):
        try:
            server.run(graph_of(name, field, value))
        except RuntimeError as error:
            # said by the host's validation, or by a node
            assert not re.search(r": \w*(?<!Value)Error: ", str(error)), (name, field, value, error)
            return True
        return False

    for name, info in described.items():
        for field, kind, _ in widgets(info["input"]):
            if not is_choice(kind) and kind != "STRING":
                continue
            names = list(hostile(outside, base_dir))
            # as the name of a new file only the last one leads anywhere
            names += [*LINKS, *NO_NAMES] if is_choice(kind) else LINKS[-1:]
            if kind == "STRING" and not info["output_node"]:
                # prompts and words: once, for they compute
                names = [f"{names[0]} {names[1]}, embedding:{names[0]} "]
                if any(other == "MAGICTAILOR_GROUNDED_SAM" for _, other, _ in widgets(info["input"])):
                    # one thing to look for, which is refused once its letters are known, before a slow network
                    names = [re.sub(r"[.,]", "", names[0]) * 30]
            for value in names:
                tried += 1
                if not refused(name, field, value) and (is_choice(kind) or info["output_node"]):
                    accepted.append((name, field, value))
                seen = watch.seen()
                assert not seen, (name, field, value, seen)
    assert tried > 150
    # a switch stood in the place of memory once
    accepted = [each for each in accepted if each[1:] not in [("memory", True), ("preset.memory", True)]]
    assert accepted == [] and written(base_dir) == before
