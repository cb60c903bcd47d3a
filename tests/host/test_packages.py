"""A package that is missing, or breaks on import, costs only the nodes that need it, and those say so."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from tools.comfyui import PACK_ROOT

spec = importlib.util.spec_from_file_location("install", PACK_ROOT / "install.py")
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)

TRAIN = {"MagicTailorTrainV2", "MagicTailorTrain"}
# by import name: the nodes that cannot work without it
NEEDED_BY = {
    "accelerate": TRAIN,
    "diffusers": TRAIN,
    "groundingdino": {"MagicTailorGroundedSAMLoader"},
    "matplotlib": TRAIN | {"MagicTailorAttentionMaps", "MagicTailorCompare"},
    "peft": TRAIN,
    "segment_anything": {"MagicTailorGroundedSAMLoader"},
    "timm": {"MagicTailorGroundedSAMLoader"},
    "xformers": TRAIN,  # when it is there, diffusers imports it
}
ITS_OWN = [package for package in NEEDED_BY if package != "xformers"]
# the nodes that learn, look inside a model or write beside pictures; all others work without any of these packages
HEAVY = TRAIN | {"MagicTailorAttentionMaps", "MagicTailorCompare", "MagicTailorGroundedSAMLoader"}
FAULTS = {
    "missing": "which is not installed",
    "broken": r"breaks on import \(OSError: libmissing.so: cannot open shared object file\)",
}
WAYS = [*((package, "broken") for package in NEEDED_BY), ("matplotlib", "missing"), ("groundingdino", "missing")]
# one process imports the host and then, in a fork for each way to fail, the pack: importing the host takes its time
PROBE = """
import asyncio, importlib.util, json, os, pathlib, sys, tempfile, traceback
tools, comfy_root, base, checkpoint_name = sys.argv[1:5]
ways, packages = map(json.loads, sys.argv[5:])
spec = importlib.util.spec_from_file_location("comfyui", tools + "/comfyui.py")
comfyui = sys.modules["comfyui"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(comfyui)
host = comfyui.import_host(comfy_root, base)
import torch
checkpoint = host.CheckpointLoaderSimple().load_checkpoint(checkpoint_name)[:3]
from comfy_api.v0_0_2 import io

class Missing:
    def __init__(self, package):
        self.package = package
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def broken(package):
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("raise OSError('libmissing.so: cannot open shared object file')")
    if importlib.util.find_spec(package) is None:
        described = folder / f"{package}-1.0.dist-info" / "METADATA"
        described.parent.mkdir()
        described.write_text(f"Name: {package}\\nVersion: 1.0\\n")
    sys.path.insert(0, str(folder))

def imported():
    return {name.partition(".")[0] for name in sys.modules} & set(packages)

def probed(package, way, needed_by):
    before = imported()
    if way == "missing":
        sys.meta_path.insert(0, Missing(package))
    if way == "broken":
        broken(package)
    asyncio.run(host.load_custom_node(str(pathlib.Path(base, "custom_nodes", comfyui.PACK_FOLDER))))
    loaded = sorted(imported() - before)
    pack = {
        name: node for name, node in host.NODE_CLASS_MAPPINGS.items()
        if getattr(node, "RELATIVE_PYTHON_MODULE", None) == f"custom_nodes.{comfyui.PACK_FOLDER}"
    }
    said = {}
    for name, node in pack.items():
        given = {i.id: i.default if isinstance(i, io.WidgetInput) else None for i in node.GET_SCHEMA().inputs}
        if name in needed_by:
            concept, component = pack["MagicTailorLoadPair"].execute("example: house_a+roof_a", 1).args[:2]
            real = {"model": checkpoint[0], "clip": checkpoint[1], "vae": checkpoint[2], "concept": concept}
            real |= {"components": {"component0": component, "component 1": component}}
            real |= {"grounding_dino": "groundingdino_swint_ogc.pth", "sam": "sam_vit_b_01ec64.pth"}
            # in case nothing fails
            real |= {"phase1_train_steps": 1, "phase2_train_steps": 0, "resolution": 64, "preview_every": 0}
            # a training that is finished already is taken from disk, and needs none of these packages
            real |= {"resume": "start over"}
            given |= {key: value for key, value in real.items() if key in given}
        try:
            with torch.inference_mode():
                node.execute(**given)
            said[name] = ""
        except Exception as error:
            said[name] = str(error)
    return {"loaded": loaded, "said": said}

for package, way, needed_by in ways:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            print("RESULT", json.dumps([package, way, probed(package, way, needed_by)]), flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def probed(comfy_root, base_dir, checkpoint_name):
    """What a host's start loads and what its nodes say, by (package, way in which it fails)."""
    ways = [(None, None), *WAYS]
    needed = [(package, way, sorted(NEEDED_BY.get(package, ()))) for package, way in ways]
    arguments = [str(PACK_ROOT / "tools"), str(comfy_root), str(base_dir), checkpoint_name]
    arguments += [json.dumps(needed), json.dumps(ITS_OWN)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # those of a forked process's parent are not there any more
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], env=one_thread, capture_output=True, text=True, timeout=600
    )
    results = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = {(package, way): result for package, way, result in results}
    assert found.keys() == set(ways), done.stdout + done.stderr
    return found


def test_the_hosts_start_loads_none_of_them(probed):
    assert probed[None, None]["loaded"] == []


@pytest.mark.parametrize(("package", "way"), WAYS)
def test_all_nodes_are_there_and_those_that_need_it_say_what_to_do(probed, described, nodes, package, way):
    said = probed[package, way]["said"]
    assert list(said) == list(described)
    name = nodes.bridge.packages.PACKAGES.get(package, package)
    complaints = {node for node, text in said.items() if re.search(f"the Python package {name},? {FAULTS[way]}", text)}
    assert NEEDED_BY[package] <= complaints <= HEAVY
    for node in complaints:
        assert said[node].startswith(described[node]["display_name"] + " ")
        assert re.search(f"`python -m pip install [^`]*{name}`", said[node])
        assert "\n" not in said[node]


def test_of_a_package_that_is_not_ours_it_says_how_to_do_without(probed):
    for node in TRAIN:
        assert "`python -m pip uninstall xformers`" in probed["xformers", "broken"]["said"][node]


def test_the_one_that_brings_too_much_is_asked_for_alone(probed):
    said = probed["groundingdino", "missing"]["said"]["MagicTailorGroundedSAMLoader"]
    assert "`python -m pip install --no-deps groundingdino-py`" in said


def test_the_packages_are_what_is_installed(nodes):
    packages = nodes.bridge.packages.PACKAGES
    lines = (PACK_ROOT / "requirements.txt").read_text().splitlines()
    required = [Requirement(line).name for line in lines if not line.startswith("#")]
    assert sorted(packages.values()) == sorted([*required, Requirement(install.DETECTOR).name])
    assert [*packages] == ITS_OWN
