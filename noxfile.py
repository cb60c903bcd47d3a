"""Two commands: `nox -s demo` and `nox -s tests`. Both bring a real ComfyUI and share one environment, .host/venv.

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


def set_up(session: nox.Session) -> None:
    """Bring an environment, the host, the packages that it and this pack need, and a browser; quick when all is there.

    nox makes one environment per session; this one has 5 GB, so both sessions share it.
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
        # not compiled beforehand: most of these files are never imported
        session.run(PYTHON, "-m", "pip", "install", "--no-compile", *TORCH, *from_lists, *extra)
        session.run(PYTHON, "install.py")
        stamp.write_text(wanted)
    session.run(PYTHON, "-m", "tools.browser")
