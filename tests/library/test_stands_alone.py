"""The library works without ComfyUI."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
BLOCKED = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "execution", "nodes")

IMPORT_EVERYTHING = f"""
import importlib, importlib.abc, pkgutil, sys
class NoHost(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError("the library imports the host: " + name)
sys.meta_path.insert(0, NoHost())
sys.path.insert(0, {str(ROOT)!r})
import magictailor
names = [m.name for m in pkgutil.iter_modules(magictailor.__path__)]
for name in names:
    importlib.import_module("magictailor." + name)
print(len(names))
"""


def test_no_module_imports_the_host():
    done = subprocess.run([sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == len(list((ROOT / "magictailor").glob("*.py"))) - 1
