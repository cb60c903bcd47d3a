"""A batch on two real Ray nodes, one of which is killed on the way, leaves what one process leaves."""

import os
import pathlib
import socket
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from tiny_batch import contents, toy_pairs

from tools.tiny_checkpoint import make_tiny_checkpoint

pytest.importorskip("ray", reason="Ray, which only batches on clusters need, is not installed")

ROOT = pathlib.Path(__file__).parents[2]
RAY = str(pathlib.Path(sys.executable).with_name("ray"))


def started(*arguments):
    # Ray's workers are otherwise the last to get a busy core
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    return subprocess.Popen(
        [RAY, "start", "--block", "--num-cpus", "1", "--object-store-memory", "100000000", *arguments],
        env={**os.environ, **quiet}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def killed(process):
    """End a node with all its processes, at once."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


@pytest.fixture
def nodes(tmp_path):
    """Address of a cluster of two nodes with a core each, and the second node's process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head = started("--head", "--port", address.rpartition(":")[2], "--include-dashboard", "false")
    second = None
    try:
        wait_for(lambda: answers(address))
        second = started("--address", address)
        wait_for(lambda: any("worker" in " ".join(p.cmdline()) for p in psutil.Process(second.pid).children(True)))
        yield address, second
    finally:
        for process in filter(None, (second, head)):
            if process.poll() is None:
                killed(process)


def answers(address):
    host, _, port = address.partition(":")
    with socket.socket() as asking:
        return asking.connect_ex((host, int(port))) == 0


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def command(checkpoint, pairs, output, *more):
    return [
        sys.executable, "-m", "magictailor", "batch", str(pairs), "--pretrained_model_name_or_path", str(checkpoint),
        "--output_dir", str(output), "--settings", "phase1_train_steps=2", "phase2_train_steps=1", "resolution=64",
        "lora_rank=2", "--steps", "1", "--width", "64", "--height", "64", "--device", "cpu", *more,
    ]  # fmt: skip


def test_a_killed_node_costs_nothing(nodes, tmp_path):
    address, second = nodes
    checkpoint, pairs = make_tiny_checkpoint(tmp_path / "checkpoint"), toy_pairs(tmp_path / "pairs", range(12))
    on_ray = subprocess.Popen(command(checkpoint, pairs, tmp_path / "ray", "--ray", address), cwd=ROOT)
    wait_for(lambda: len(list((tmp_path / "ray").rglob("result-*.json"))) >= 4)
    killed(second)
    assert len(list((tmp_path / "ray").rglob("result-*.json"))) < 12
    assert on_ray.wait(timeout=300) == 0
    alone = subprocess.run(command(checkpoint, pairs, tmp_path / "alone", "--workers", "1"), cwd=ROOT)
    assert alone.returncode == 0
    one, other = contents(tmp_path / "ray"), contents(tmp_path / "alone")
    assert one.keys() == other.keys() and len([path for path in one if path.suffix == ".png"]) == 12
    assert one == other
