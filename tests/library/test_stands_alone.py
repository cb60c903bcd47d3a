"""The library works without ComfyUI, asks for little until it is used, and keeps each kind of model in its room."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
LIBRARY = ROOT / "magictailor"
HOST = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "execution", "nodes")
HEAVY = ("diffusers", "peft", "transformers", "accelerate", "matplotlib", "segment_anything", "groundingdino")

IMPORT_EVERYTHING = f"""
import importlib, importlib.abc, pkgutil, sys
class NoHost(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HOST!r}:
            raise ImportError("the library imports the host: " + name)
sys.meta_path.insert(0, NoHost())
sys.path.insert(0, {str(ROOT)!r})
import magictailor
names = [m.name for m in pkgutil.walk_packages(magictailor.__path__, "magictailor.")]
for name in names:
    if not name.endswith(".__main__"):
        importlib.import_module(name)
print(len(names), *(f"{{name}}={{getattr(magictailor, name).__name__}}" for name in magictailor.__all__))
"""

LIGHT = (
    "magictailor",
    "magictailor.config",
    "magictailor.backbones",
    "magictailor.formats",
    "magictailor.formats.tailoring_file",
    "magictailor.formats.pair_folder",
    "magictailor.tailoring",
    "magictailor.reference",
    "magictailor.runs",
    "magictailor.cli.parser",
)
IMPORT_LIGHTLY = f"""
import importlib, sys
sys.path.insert(0, {str(ROOT)!r})
for module in {LIGHT!r}:
    importlib.import_module(module)
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    if loaded:
        raise SystemExit(module + " loads " + ", ".join(loaded))
"""

KINDS = re.compile(
    r"UNet|Transformer\w*(Model|Family)|CLIPTextModel|T5Encoder|lora_unet_|\b(SD[123]|SDXL|Flux)\w*|MMDiT"
)


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_module_imports_the_host_and_every_public_name_is_there():
    modules = [path for path in LIBRARY.rglob("*.py") if path.parent != LIBRARY or path.name != "__init__.py"]
    count, *public = run(IMPORT_EVERYTHING).splitlines()[-1].split()
    assert int(count) == len(modules)
    assert 8 <= len(public) <= 15
    assert all(name == real for name, _, real in (pair.partition("=") for pair in public))


def test_what_reads_files_and_settings_loads_no_networks():
    run(IMPORT_LIGHTLY)


def test_only_the_backbones_know_kinds_of_models():
    named = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for folder in (LIBRARY, ROOT / "nodes")
        for path in folder.rglob("*.py")
        if "backbones" not in path.parts and "bridge" not in path.parts
        for match in KINDS.finditer(path.read_text(encoding="utf-8"))
    }
    assert named == set()


def test_the_detector_is_imported_without_the_packages_that_its_own_only_draws_with():
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
for name in ("addict", "cv2", "pycocotools", "supervision", "yapf"):
    sys.modules[name] = None
from magictailor.masks.grounding_dino import detector_package
detector_package("models.GroundingDINO.groundingdino")
print(*(name for name in sys.modules if name == "groundingdino.util.visualizer"))
"""
    assert run(program).split() == []
