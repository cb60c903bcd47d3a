"""A batch on two real Ray nodes, one of which is killed on the way, leaves what one process leaves."""

import csv
import json
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

from magictailor.batch.early_stopping import Judge, judged, read_record
from magictailor.batch.jobs import Job
from magictailor.batch.study import Asha, CheckpointSource, Drawing, JudgedTask
from magictailor.config import TailorConfig
from tools.tiny_checkpoint import make_tiny_checkpoint
from toytown.model import load_tokenizer
from toytown.vision import load_clip

pytest.importorskip("ray.tune", reason="Ray Tune, which only batches on clusters need, is not installed")

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


def judge(folder, jobs, **how):
    return Judge(Asha(1, **how), jobs, folder)


def jobs_of(tmp_path, pair, seeds, **how):
    """Jobs whose folders need not be there."""
    drawing, source = Drawing(), CheckpointSource("x", None, None, "")
    tasks = [
        JudgedTask(pair, "", TailorConfig(seed=seed), {"seed": seed}, source, drawing, ("x",), asha=Asha(1, **how))
        for seed in seeds
    ]
    return [Job(task.name, task) for task in tasks]


def test_of_one_pair_the_best_go_on_and_pairs_are_not_compared(tmp_path):
    houses, cups = jobs_of(tmp_path, "house+roof", range(4)), jobs_of(tmp_path, "cup+handle", range(4))
    asked = judge(tmp_path, houses + cups, reduction_factor=2.0)
    scores = (0.5, 0.9, 0.6, 0.95)
    assert [asked.goes_on(job.name, 1, score) for job, score in zip(houses, scores, strict=True)] == [
        True, True, False, True,
    ]  # fmt: skip
    # much worse, and the best of its own
    assert asked.goes_on(cups[0].name, 1, 0.1)
    # asked again, whatever has come since
    assert asked.goes_on(houses[0].name, 1, 0.5) and not asked.goes_on(houses[2].name, 1, 0.6)
    assert asked.goes_on(houses[3].name, 2, 0.5) and not asked.goes_on(houses[1].name, 2, 0.4)


def test_what_was_said_before_is_known_to_the_next_one(tmp_path):
    jobs = jobs_of(tmp_path, "house+roof", range(3))
    for job, score in zip(jobs[:2], (0.5, 0.9), strict=True):
        (tmp_path / job.name).mkdir()
        assert judged(job, tmp_path, 1, lambda score=score: score, lambda name, step, found: found > 0.6) == (
            score > 0.6
        )
    asked = judge(tmp_path, jobs)
    assert not asked.goes_on(jobs[0].name, 1, 0.5) and asked.goes_on(jobs[1].name, 1, 0.9)
    assert not asked.goes_on(jobs[2].name, 1, 0.7)
    # with other numbers it is asked anew
    others = jobs_of(tmp_path, "house+roof", range(3), reduction_factor=2.0)
    assert read_record(tmp_path, jobs[0]) == {1: (0.5, False)} and read_record(tmp_path, others[0]) == {}


def test_the_worse_half_of_a_grid_is_ended_on_a_cluster(nodes, tmp_path):
    address, _ = nodes
    checkpoint, pairs = make_tiny_checkpoint(tmp_path / "checkpoint"), toy_pairs(tmp_path / "pairs", (0,))
    load_clip().save_pretrained(tmp_path / "clip")
    load_tokenizer().save_pretrained(tmp_path / "clip")
    more = ("--grid", "seed=0,1,2,3", "--encoders", str(tmp_path / "clip"), "--ray", address)
    early = ("--asha_grace_period", "1", "--asha_reduction_factor", "2")
    output = tmp_path / "out"
    # results by an address, as on a bucket
    assert subprocess.run(command(checkpoint, pairs, f"file://{output}", *more, *early), cwd=ROOT).returncode == 0
    with (output / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all((output / row[name]).is_file() for row in rows for name in ("picture", "tailoring"))
    ended = [row for row in rows if row["ended at step"]]
    assert 1 <= len(ended) <= 3
    records = [json.loads(path.read_text()) for path in output.glob("*/judged-*.json")]
    said = sorted((score, goes_on) for record in records for _, (score, goes_on) in record)
    assert said[-1][1] and sum(not goes_on for _, goes_on in said) == len(ended)
