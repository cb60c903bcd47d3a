"""Installing requirements.txt into the host's environment leaves what the host brought as it is."""

import json
import os
import pathlib
import subprocess
import sys
from importlib import metadata

import pip
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.comfyui import PACK_ROOT, locate_comfyui

NEVER_CHANGED = {"torch", "torchvision", "torchaudio", "numpy", "transformers", "tokenizers", "safetensors", "pillow"}


def brought_by(requirements: pathlib.Path) -> set[str]:
    """Names of the installed packages that a requirements file brings, with all that they need in turn."""
    lines = (line.partition("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines())
    found, to_do, seen = set(), [Requirement(line) for line in lines if line], set()
    while to_do:
        requirement = to_do.pop()
        name = canonicalize_name(requirement.name)
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                parsed = map(Requirement, needed)
                to_do += [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": extra})]
    return found


@pytest.fixture(scope="module")
def host_only(tmp_path_factory):
    """A folder that shows pip the packages of a host without this pack, in the versions installed here."""
    folder = tmp_path_factory.mktemp("host_packages")
    names = brought_by(locate_comfyui() / "requirements.txt")
    for distribution in metadata.distributions():
        if canonicalize_name(distribution.metadata["Name"]) in names:
            record = pathlib.Path(distribution._path)
            (folder / record.name).symlink_to(record)
    (folder / "pip").symlink_to(pathlib.Path(pip.__file__).parent)
    return folder


def would_install(host_only: pathlib.Path, requirements: pathlib.Path) -> dict[str, str]:
    # -S: the folder given, and nothing else, is what pip takes for installed
    command = [sys.executable, "-S", "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-"]
    finished = subprocess.run(
        [*command, "-r", str(requirements)],
        env=os.environ | {"PYTHONPATH": str(host_only)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = (item["metadata"] for item in json.loads(finished.stdout)["install"])
    return {canonicalize_name(item["name"]): item["version"] for item in found}


def test_nothing_of_the_host_is_changed(host_only):
    installed = would_install(host_only, PACK_ROOT / "requirements.txt")
    assert {"diffusers", "peft", "segment-anything", "groundingdino-py"} <= installed.keys()
    of_the_host = brought_by(locate_comfyui() / "requirements.txt")
    assert NEVER_CHANGED <= of_the_host
    assert installed.keys() & of_the_host == set()


def test_a_requirement_that_would_change_the_host_is_seen(host_only, tmp_path):
    older = tmp_path / "requirements.txt"
    older.write_text(f"safetensors<{metadata.version('safetensors')}\n")
    assert "safetensors" in would_install(host_only, older)
