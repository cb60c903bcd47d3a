"""A real ComfyUI for demo and tests: find it, give it folders with this pack installed, run it, talk to it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp

PACK_ROOT = pathlib.Path(__file__).resolve().parent.parent
STATE_DIR = PACK_ROOT / ".host"
PACK_FOLDER = "ComfyUI-MagicTailor"
BASE_FOLDERS = ("models", "input", "output", "custom_nodes", "user")

ProgressCallback = Callable[[str, int, int], None]


class PromptError(RuntimeError):
    """The host refused a graph, or a node of it failed. The message holds the node and what it said."""


def locate_comfyui() -> pathlib.Path:
    """The host's root: COMFYUI_PATH when set, else the copy that the set-up downloaded.

    Raises FileNotFoundError when there is neither.
    """
    root = pathlib.Path(os.environ.get("COMFYUI_PATH") or STATE_DIR / "ComfyUI").expanduser().resolve()
    if not (root / "main.py").is_file() or not (root / "comfy").is_dir():
        raise FileNotFoundError(
            f"No ComfyUI in {root}. Set COMFYUI_PATH to an existing one, or run `python3 -m nox -s tests` once, "
            "which downloads it."
        )
    return root


def make_base_dir(base_dir: str | pathlib.Path) -> pathlib.Path:
    """Make the folders of one host installation, with this pack linked into custom_nodes as users do it."""
    base = pathlib.Path(base_dir).resolve()
    for folder in BASE_FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / PACK_FOLDER
    if not link.exists():
        link.unlink(missing_ok=True)  # a link left over from a pack that has moved
        try:
            link.symlink_to(PACK_ROOT, target_is_directory=True)
        except OSError:  # Windows without developer mode
            shutil.copytree(PACK_ROOT, link, ignore=shutil.ignore_patterns(".*", "demo_output", "__pycache__"))
    return base


def import_host(
    comfy_root: str | pathlib.Path, base_dir: str | pathlib.Path | None = None, cpu: bool = True
) -> types.ModuleType:
    """Make the host's modules importable in this process and return its `nodes` module.

    It computes on the CPU, or with `cpu` False on the device it finds. With `base_dir` the host's folder_paths points
    there. Must run before anything imports comfy.model_management.
    """
    root = str(pathlib.Path(comfy_root).resolve())
    if "comfy.model_management" in sys.modules:
        raise RuntimeError("import_host() must come before the first import of comfy.model_management.")
    if root not in sys.path:
        sys.path.insert(0, root)
    from comfy.cli_args import args

    args.cpu = cpu
    if base_dir is not None:
        args.base_directory = str(pathlib.Path(base_dir).resolve())
    # older hosts' nodes.py puts comfy/, which has a utils.py too, before the root
    importlib.import_module("utils.install_util")
    import nodes

    return nodes


def load_pack(name: str = "magictailor_pack") -> types.ModuleType:
    """Import this pack the way the host does: by its path, under a name of its own, nothing added to sys.path."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        name, PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _heeding_ctrl_c() -> Iterator[None]:
    """Processes started inside end at SIGINT, though a shell lets its background jobs, and theirs, ignore it."""
    ignored = (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread()
    )
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class ComfyServer:
    """A ComfyUI server process on the CPU, and a client of its HTTP and websocket API.

    Use as a context manager: entering starts the server and waits until it answers, leaving stops it.
    """

    def __init__(self, comfy_root: str | pathlib.Path, base_dir: str | pathlib.Path, extra_args: tuple[str, ...] = ()):
        self.comfy_root = pathlib.Path(comfy_root)
        self.base_dir = pathlib.Path(base_dir)
        self.extra_args = extra_args
        self.log_file = self.base_dir / "server.log"
        self.client_id = uuid.uuid4().hex
        self.url = ""
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    # --- process

    def start(self, timeout: float = 300) -> None:
        """Start the server and wait until it answers. Raises RuntimeError with the end of its log if it does not."""
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "main.py", "--cpu", "--base-directory", str(self.base_dir), "--port", str(port),
            "--disable-auto-launch", "--disable-api-nodes",
            "--database-url", f"sqlite:///{(self.base_dir / 'user' / 'comfyui.db').as_posix()}", *self.extra_args,
        ]  # fmt: skip
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with self.log_file.open("wb") as log, _heeding_ctrl_c():
            self._process = subprocess.Popen(
                command, cwd=self.comfy_root, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_ready(timeout)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI stopped while starting:\n{self.log()[-4000:]}")
            try:
                self.get("/system_stats", timeout=5)
                return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError(f"ComfyUI did not answer within {timeout:.0f} s:\n{self.log()[-4000:]}")

    def stop(self) -> None:
        """Stop the server; does nothing when it is not running."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._process.kill()

    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.poll() is None

    def ask_to_end(self, number: int) -> None:
        """Send a signal, such as signal.SIGTERM, and leave the rest to the server."""
        self._process.send_signal(number)

    def ended(self, timeout: float = 120) -> int:
        """Wait until the server has ended by itself; its exit status, -9 after `kill`.

        Raises TimeoutError when it has not.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"ComfyUI has not ended within {timeout:.0f} s.") from None

    def log(self) -> str:
        """Everything the server has printed so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    # --- HTTP

    def get(self, path: str, timeout: float = 60) -> bytes:
        """What the server answers at a path of its own."""
        with urllib.request.urlopen(self.url + path, timeout=timeout) as response:
            return response.read()

    def _post(self, path: str, data: dict) -> bytes:
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()

    def object_info(self, node: str | None = None) -> dict:
        """The description of all node types, or of one."""
        return json.loads(self.get("/object_info" + (f"/{node}" if node else ""), timeout=300))

    def pack_nodes(self) -> dict[str, dict]:
        """The description of every node of this pack, in the pack's own order."""
        module = f"custom_nodes.{PACK_FOLDER}"
        return {node: info for node, info in self.object_info().items() if info["python_module"] == module}

    def default_inputs(self, node: str) -> dict:
        """What the frontend would send for the required widgets of a new node."""
        described = self.object_info(node)[node]["input"]["required"]
        return {name: options[1]["default"] for name, options in described.items() if "default" in options[1]}

    def queue(self, graph: dict) -> str:
        """Queue an API graph and return its prompt id. Raises PromptError when the host's validation refuses it."""
        try:
            answer = self._post("/prompt", {"prompt": graph, "client_id": self.client_id})
        except urllib.error.HTTPError as error:
            raise PromptError(_describe_refusal(error.read())) from None
        return json.loads(answer)["prompt_id"]

    def history(self, prompt_id: str) -> dict | None:
        """The history entry of a prompt, None while it has not finished."""
        return json.loads(self.get(f"/history/{prompt_id}")).get(prompt_id)

    def wait(self, prompt_id: str, timeout: float = 600) -> dict:
        """Wait for a prompt and return its history entry, whatever its outcome.

        Raises TimeoutError (after interrupting the prompt) and RuntimeError when the server dies.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI died while running a graph:\n{self.log()[-4000:]}")
            entry = self.history(prompt_id)
            if entry is not None:
                return entry
            time.sleep(0.1)
        self.interrupt()
        raise TimeoutError(f"The graph did not finish within {timeout:.0f} s.")

    def run(self, graph: dict, timeout: float = 600, on_progress: ProgressCallback | None = None) -> dict:
        """Run an API graph to its end and return its history entry.

        on_progress: called as (node type, step, total) from a second thread; total is 0 when a node begins.
        Raises PromptError with the failing node's message, also after an interrupt.
        """
        with _ProgressListener(self, graph, on_progress):
            entry = self.wait(self.queue(graph), timeout)
        if entry["status"]["status_str"] != "success":
            raise PromptError(_describe_failure(entry))
        return entry

    def interrupt(self) -> None:
        """Ask the running prompt to stop."""
        self._post("/interrupt", {})

    def free(self) -> None:
        """Make the host drop its models and its cached outputs, so that the next run computes everything again."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def fetch_image(self, image: dict) -> bytes:
        """The file behind an item of a history entry's outputs: {"filename", "subfolder", "type"}."""
        return self.get("/view?" + urllib.parse.urlencode(image))

    def images(self, entry: dict, kind: str = "output") -> list[dict]:
        """All images of a history entry, of type "output" (saved) or "temp" (previews)."""
        found = [image for output in entry["outputs"].values() for image in output.get("images", [])]
        return [image for image in found if image.get("type") == kind]


class _ProgressListener:
    """Passes the websocket's progress messages to a callback while a graph runs; does nothing without a callback."""

    def __init__(self, server: ComfyServer, graph: dict, callback: ProgressCallback | None):
        self.address = f"{server.url}/ws?clientId={server.client_id}"
        self.node_types = {node_id: node["class_type"] for node_id, node in graph.items()}
        self.callback = callback
        self.connected = threading.Event()
        self.finished = threading.Event()

    def __enter__(self) -> None:
        if self.callback is None:
            return
        self.thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)
        self.thread.start()
        self.connected.wait(30)  # messages sent before we listen would be lost

    def __exit__(self, *exception) -> None:
        if self.callback is not None:
            self.finished.set()
            self.thread.join(10)

    async def _listen(self) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(self.address, max_msg_size=0) as socket:
            self.connected.set()
            while not self.finished.is_set():
                try:
                    message = await socket.receive(timeout=0.2)
                except asyncio.TimeoutError:
                    continue
                if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR):
                    return
                if message.type == aiohttp.WSMsgType.TEXT:
                    self._report(json.loads(message.data))

    def _report(self, message: dict) -> None:
        data = message.get("data") or {}
        # a node inside an expanded graph has an id unknown here; only nodes of the queued graph are reported
        node_type = self.node_types.get(str(data.get("node")))
        if node_type and message["type"] == "executing":
            self.callback(node_type, 0, 0)
        elif node_type and message["type"] == "progress":
            self.callback(node_type, int(data["value"]), int(data["max"]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _describe_refusal(body: bytes) -> str:
    """What the host's validation says about a graph, one line per problem."""
    answer = json.loads(body)
    lines = [f"{answer['error']['message']} {answer['error'].get('details', '')}".strip()]
    for node_id, problem in (answer.get("node_errors") or {}).items():
        for error in problem["errors"]:
            lines.append(f"{problem['class_type']} ({node_id}): {error['message']}: {error['details']}")
    return "\n".join(lines)


def _describe_failure(entry: dict) -> str:
    """The failing node and its exception, from the messages of a history entry."""
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{data['node_type']}: {data['exception_type']}: {data['exception_message']}".strip()
        if kind == "execution_interrupted":
            return f"{data['node_type']}: interrupted"
    return json.dumps(entry["status"])
