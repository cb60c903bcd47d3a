"""`nox -s demo`, `nox -s tests` and `nox -s matrix`. All bring a real ComfyUI and share one environment, .host/venv.

COMFYUI_PATH: use that ComfyUI instead of downloading one. CHROMIUM_PATH: use that browser.
"""

import hashlib
import os
import pathlib
import sys

import nox

ROOT = pathlib.Path(__file__).resolve().parent
STATE = ROOT / ".host"
VENV = STATE / "venv"
PROGRAMS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(PROGRAMS / ("python.exe" if os.name == "nt" else "python"))
# torchaudio, which the host asks for, exists for no newer torch than this
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# a file's tests share what they trained, so they stay in one process
TWO_PROCESSES = ("tests", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--durations", "25")

# the oldest that work, found by trying, and whatever is newest
VERSIONS = {
    "oldest": ("transformers==4.50.3", "diffusers==0.31.0", "peft==0.12.0"),
    "newest": ("transformers", "diffusers", "peft"),
}
# of what these packages do for the pack: networks, LoRA, text encoders, files, the detector
OF_VERSIONS = tuple(
    f"tests/library/test_{name}.py" for name in ("vectors", "families", "stable_diffusion_3", "memory", "grounded_sam")
)

# what is imported is compiled once and kept, also where Python is told not to: every process would do it again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests"]


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Tailor in a real ComfyUI on the toy town model and leave a sheet of pictures; arguments go to toytown/demo.py."""
    set_up(session)
    session.run(PYTHON, "-m", "toytown.demo", *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Check style and types and run all tests; arguments go to pytest."""
    set_up(session)
    session.run(PYTHON, "-m", "ruff", "check", ".")
    session.run(PYTHON, "-m", "ruff", "format", "--check", ".")
    session.run(PYTHON, "-m", "tools.check_types")
    # two processes of one thread each: torch's threads gain little on models this small
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # not `python -m pytest`, which puts the pack's root on sys.path
    session.run(str(PROGRAMS / "pytest"), *(session.posargs or TWO_PROCESSES), env=threads)


@nox.session(venv_backend="none")
@nox.parametrize("versions", list(VERSIONS))
def matrix(session: nox.Session, versions: str) -> None:
    """Run the tests of what other packages do with the oldest and the newest of them; not part of `tests`."""
    set_up(session)
    folder = STATE / "versions" / versions
    # laid over the environment, not into it: the host keeps its own
    install = (PYTHON, "-m", "pip", "install", "--upgrade", "--target", str(folder))
    transformers, *others = VERSIONS[versions]
    session.run(*install, transformers)
    # these ask for torch, which is there
    session.run(*install, "--no-deps", *others)
    # old packages warn of what new ones have changed
    quiet = ("-W", "ignore", "-o", "filterwarnings=")
    session.run(str(PROGRAMS / "pytest"), *quiet, *(session.posargs or OF_VERSIONS), env={"PYTHONPATH": str(folder)})


def set_up(session: nox.Session) -> None:
    """Bring an environment, the host, the packages that it and this pack need, and a browser; quick when all is there.

    nox makes one environment per session; this one has 5 GB, so all sessions share it.
    """
    if not pathlib.Path(PYTHON).is_file():
        session.run(sys.executable, "-m", "virtualenv", str(VENV))
    session.run(PYTHON, "-m", "tools.download_comfyui")
    host = pathlib.Path(os.environ.get("COMFYUI_PATH") or STATE / "ComfyUI").expanduser()
    lists = [host / "requirements.txt", ROOT / "requirements.txt"]
    extra = nox.project.dependency_groups(nox.project.load_toml(ROOT / "pyproject.toml"), "test")
    wanted = hashlib.sha256(
        repr([TORCH, extra, [path.read_text() for path in (*lists, ROOT / "install.py")]]).encode()
    ).hexdigest()
    stamp = VENV / "installed.sha256"
    if not stamp.is_file() or stamp.read_text() != wanted:
        # all in one call: no requirement can move the version that another one asked for
        from_lists = [argument for path in lists for argument in ("-r", str(path))]
        # not compiled beforehand: most of these files are never imported, and those that are, when they first are
        session.run(PYTHON, "-m", "pip", "install", "--no-compile", *TORCH, *from_lists, *extra)
        session.run(PYTHON, "install.py")
        stamp.write_text(wanted)
    session.run(PYTHON, "-m", "tools.browser")
