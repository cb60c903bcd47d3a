"""Trainings on disk: cut anywhere, they end as one that was not; nothing that was there is ever lost."""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from tiny import tiny_model, tiny_reference

import magictailor.formats.new_file
import magictailor.runs
from benchmarks.durability.fuzz import damaged
from magictailor.backbones import CheckpointWeights
from magictailor.backbones.stable_diffusion.schedule import scaled_linear_schedule
from magictailor.config import CONTINUE, START_OVER, TailorConfig
from magictailor.errors import InputError
from magictailor.fingerprints import of_checkpoint, of_files, of_weights
from magictailor.formats.run_state import read_state
from magictailor.formats.tailoring_file import load_tailoring
from magictailor.runs import Run, Runs, plan_of
from magictailor.sampling import Sketcher
from magictailor.training import Training, TrainingDiverged

CONFIG = TailorConfig(phase1_train_steps=3, phase2_train_steps=4, lora_rank=4, resolution=64)
REFERENCES = [tiny_reference("tower", 3, 1), tiny_reference("roof", 2, 2)]
# another process, which does what it is told line by line
ANOTHER_PROCESS = """
import json, pathlib, sys
root = sys.argv[1]
sys.path[:0] = [root, root + "/tests/library"]
import torch
torch.set_num_threads(1)
import test_runs
for line in sys.stdin:
    folder, how = json.loads(line)
    try:
        test_runs.train_in(pathlib.Path(folder), **how)
    except test_runs.Cut:
        pass
    print("done", flush=True)
"""


class Cut(BaseException):
    """As the host's interrupt, no Exception."""


def plan(config=CONFIG, references=REFERENCES, **checkpoint):
    return plan_of(references, config, "cpu", "torch.float32", {"checkpoint": "one"} | checkpoint)


def train_in(folder, stop=None, previews=False, resume=CONTINUE, **changes):
    """Train in a folder of runs until the end, or until it is cut after a step; the run."""
    config = dataclasses.replace(CONFIG, **changes)
    run = Runs(folder).choose(plan(config), resume)
    training = Training(tiny_model(config), REFERENCES, config)
    run.restore(training)
    sketcher = Sketcher(training.model, lambda latents: latents[:, :3].sigmoid(), 64, steps=1)
    with run.kept(training, plan(config), folder / "loras") as keeper:
        for report in training:
            keeper.after_step()
            if previews:
                sketcher.picture(sketcher.latents("<v0>", seed=0))
            if report.step == stop:
                raise Cut
    return run


def cut_in(folder, stop, **changes):
    with pytest.raises(Cut):
        train_in(folder, stop, **changes)
    return only(Runs(folder))


def only(runs):
    (run,) = runs.all()
    return run


def final_bytes(run):
    assert run.record.finished
    return run.state.read_bytes()


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    return final_bytes(train_in(tmp_path_factory.mktemp("uncut")))


def test_a_run_cut_anywhere_and_taken_up_in_another_process_ends_with_the_same_bytes(uncut, tmp_path):
    """Two processes take turns, and each goes on where the other one was cut."""
    root = str(magictailor.formats.new_file.Path(__file__).parents[2])
    command = [sys.executable, "-c", ANOTHER_PROCESS, root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:

        def in_the_other(folder, **how):
            print(json.dumps([str(folder), how]), file=other.stdin, flush=True)
            assert other.stdout.readline() == "done\n"

        cut_in(tmp_path / "a", stop=1)
        in_the_other(tmp_path / "a", stop=3)  # the last of the warm-up
        cut_in(tmp_path / "a", stop=4)
        in_the_other(tmp_path / "a", stop=5, previews=True)
        cut_in(tmp_path / "a", stop=6)
        in_the_other(tmp_path / "a")
        assert final_bytes(only(Runs(tmp_path / "a"))) == uncut
        low = {"memory": "fast", "phase1_train_steps": 1, "phase2_train_steps": 2}
        cut_in(tmp_path / "low", stop=2, **low)
        in_the_other(tmp_path / "low", **low)
        other.stdin.close()
        assert other.wait() == 0
    assert final_bytes(only(Runs(tmp_path / "low"))) == final_bytes(train_in(tmp_path / "low uncut", **low))


def test_what_was_learned_when_it_was_cut_is_an_ordinary_file(tmp_path):
    run = cut_in(tmp_path, stop=5)
    (left,) = (tmp_path / "loras" / "magictailor_unfinished").iterdir()
    assert left.name == "tower_with_roof_at_step_5.safetensors"
    tailoring, kept = load_tailoring(left), run.result()
    assert tailoring.steps_done == len(kept.history) == 5 and not tailoring.finished
    assert all(torch.equal(tailoring.lora[key], tensor) for key, tensor in kept.tailoring.lora.items())
    assert tailoring.text_layer == kept.tailoring.text_layer == -1


@pytest.mark.parametrize("error", [TrainingDiverged(3, "for a test"), torch.OutOfMemoryError("for a test")])
def test_a_step_that_fails_leaves_the_one_before(tmp_path, monkeypatch, error):
    losses = Training._losses

    def fail(self, *arguments):
        if self.steps_done == 2:
            raise error
        return losses(self, *arguments)

    monkeypatch.setattr(Training, "_losses", fail)
    with pytest.raises(type(error)):
        train_in(tmp_path)
    assert only(Runs(tmp_path)).record.steps_done == 2
    assert load_tailoring(next((tmp_path / "loras").rglob("*.safetensors"))).steps_done == 2


def test_a_step_that_is_cut_while_it_changes_weights_is_not_kept(tmp_path, uncut, monkeypatch):
    config, run = CONFIG, Runs(tmp_path).choose(plan())
    training = Training(tiny_model(config), REFERENCES, config)

    def cut(*anything):
        raise Cut

    with pytest.raises(Cut), run.kept(training, plan(), tmp_path / "loras") as keeper:
        training.step()
        training.step()
        keeper.save()
        monkeypatch.setattr("magictailor.training.update_momentum", cut)
        monkeypatch.setattr(training, "phase_of", lambda step: "DS-Bal")
        training.step()
    assert run.record.steps_done == 2
    assert load_tailoring(next((tmp_path / "loras").rglob("*.safetensors"))).steps_done == 2
    monkeypatch.undo()
    assert final_bytes(train_in(tmp_path)) == uncut


def test_a_finished_run_is_taken_from_disk_and_says_so(tmp_path):
    finished = train_in(tmp_path)
    again = Runs(tmp_path).choose(plan())
    assert again.folder == finished.folder and "taken from disk" in again.note
    assert [report.step for report in again.result().history] == list(range(1, 8))
    assert [report.worst for report in again.result().history][:3] == [None] * 3


def test_it_says_where_it_goes_on(tmp_path):
    cut_in(tmp_path, stop=2)
    assert Runs(tmp_path).choose(plan()).note == "going on after step 2"


def test_more_steps_extend_a_run_and_the_longer_state_is_whole_before_the_shorter_goes(tmp_path):
    first = train_in(tmp_path)
    assert Runs(tmp_path).choose(plan(dataclasses.replace(CONFIG, phase2_train_steps=6))).note == (
        "going on after step 7: the run is extended to 9 steps"
    )
    longer = train_in(tmp_path, phase2_train_steps=6)
    assert longer.folder == first.folder and longer.record.steps_done == 9
    assert [report.total_steps for report in longer.result().history] == [7] * 7 + [9] * 2
    assert len(list(longer.folder.glob("state_*"))) == 1


@pytest.mark.parametrize("changes", [{"memory": "fast"}, {"memory": "smallest"}])
def test_how_memory_is_used_may_change(tmp_path, changes):
    cut_in(tmp_path, stop=2)
    assert Runs(tmp_path).choose(plan(dataclasses.replace(CONFIG, **changes))).note == "going on after step 2"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (plan(dataclasses.replace(CONFIG, seed=1)), "seed 0 -> 1"),
        (plan(dataclasses.replace(CONFIG, phase1_train_steps=2)), "phase1_train_steps 3 -> 2"),
        (plan(dataclasses.replace(CONFIG, phase2_train_steps=1)), "steps 5 -> 4"),
        (plan(checkpoint="other"), "checkpoint"),
        (plan(references=[tiny_reference("tower", 3, 2), REFERENCES[1]]), "pictures, masks"),
    ],
)
def test_what_changed_is_said_and_the_other_run_stays(tmp_path, changed, said):
    before = cut_in(tmp_path, stop=5)
    contents = before.state.read_bytes()
    new = Runs(tmp_path).choose(changed)
    assert new.note == f"a new run, for changed: {said}; {before.name} stays as it is, after step 5"
    assert new.folder != before.folder and new.record is None
    assert before.state.read_bytes() == contents


def test_starting_over_keeps_the_run_before(tmp_path, uncut):
    first = cut_in(tmp_path, stop=5)
    second = train_in(tmp_path, resume=START_OVER)
    assert second.name == f"{first.name}_2" and first.record.steps_done == 5
    assert final_bytes(second) == uncut
    with pytest.raises(InputError, match="^resume: has to be one of continue, start over"):
        Runs(tmp_path).choose(plan(), "perhaps")


def test_keeping_states_takes_2_percent_of_the_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(magictailor.runs.time, "monotonic", lambda: clock[0])
    written = []

    def write(path, record, state):
        clock[0] += 1.5
        written.append(record.steps_done)
        path.write_bytes(b"")

    monkeypatch.setattr(magictailor.runs, "write_state", write)
    config = TailorConfig(phase1_train_steps=4000, phase2_train_steps=4000, lora_rank=4, resolution=64)
    training = Training(tiny_model(config), REFERENCES, config)
    with Run(tmp_path / "x").kept(training, plan(config), tmp_path) as keeper:
        for training.steps_done in range(1, 8001):
            clock[0] += 0.3
            keeper.after_step()
    assert len(written) * 1.5 <= 0.022 * clock[0]
    assert {0, 4000, 8000} < set(written) and max(b - a for a, b in zip(written, written[1:], strict=False)) <= 251


def killed(action):
    """Whether a copy of this process that does something is killed by it, or after some seconds from outside."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def die(*anything):
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(tensors, path, metadata):
    path.write_bytes(b"half")
    die()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot copy a process (os.fork)")
@pytest.mark.parametrize("moment", ["write", "flush", "named", "between", "step"])
def test_a_kill_at_any_moment_loses_no_run_and_leaves_no_broken_file(tmp_path, uncut, monkeypatch, moment):
    monkeypatch.setattr(magictailor.runs, "SHARE", 1e9)  # a state after every step

    def at(number):
        """Die at the so manieth state."""
        calls = []

        def train():
            place, deadly = {
                "write": ("safetensors.torch.save_file", half_written),
                "flush": ("magictailor.formats.new_file._flush", die),
                "named": ("magictailor.formats.new_file._flush_folder", die),
                "between": ("magictailor.runs.Keeper.after_step", die),
                "step": ("magictailor.training.update_momentum", die),
            }[moment]
            module, _, name = place.rpartition(".")
            owner = magictailor.runs.Keeper if moment == "between" else sys.modules[module]
            original = getattr(owner, name)

            def sometimes(*arguments):
                calls.append(arguments)
                return deadly(*arguments) if len(calls) == number else original(*arguments)

            setattr(owner, name, sometimes)
            train_in(tmp_path)

        return train

    for number in (1, 2, 3):
        before = [run.record.steps_done for run in Runs(tmp_path).all()]
        assert killed(at(number)), "it was to be killed"
        for path in tmp_path.rglob("*.safetensors"):
            read_state(path)
        after = [run.record.steps_done for run in Runs(tmp_path).all()]
        assert sum(after) >= sum(before) and len(after) <= 1
    assert final_bytes(train_in(tmp_path)) == uncut
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may mount the small disk that is filled"
)
def test_a_small_disk_that_is_full_keeps_the_state_that_was_whole(tmp_path, uncut, monkeypatch):
    monkeypatch.setattr(magictailor.runs, "SHARE", 1e9)
    monkeypatch.setattr(magictailor.runs, "_require_space", lambda folder, training: None)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this system lets no disk be mounted")
    try:
        # room for one state of DS-Bal, and not for two
        (disk / "filler").write_bytes(b"0" * (2**24 - len(uncut) * 3 // 2))
        with pytest.raises(InputError, match="^runs: the state cannot be written to .*No space left"):
            (disk / "more").write_bytes(b"0" * (len(uncut) * 5 // 4))
            train_in(disk)
        (disk / "more").unlink()
        train_in(disk)
        run = only(Runs(disk))
        assert 0 < run.record.steps_done < CONFIG.total_steps and not list(disk.rglob("*.tmp*"))
        (disk / "filler").unlink()
        assert final_bytes(train_in(disk)) == uncut
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("write", [1, 2, 5, 8], ids=["begin", "first step", "switch", "last step"])
def test_a_disk_that_is_full_costs_nothing_that_was_there(tmp_path, uncut, monkeypatch, write):
    monkeypatch.setattr(magictailor.runs, "SHARE", 1e9)
    flush, calls = magictailor.formats.new_file._flush, []

    def full(path):
        calls.append(path)
        if len(calls) >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    monkeypatch.setattr(magictailor.formats.new_file, "_flush", full)
    if write == 1:
        with pytest.raises(InputError, match="^runs: the state cannot be written to .*No space left"):
            train_in(tmp_path)
    else:
        train_in(tmp_path)
        assert only(Runs(tmp_path)).record.steps_done == write - 2
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert final_bytes(train_in(tmp_path)) == uncut


def test_too_little_space_is_told_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(magictailor.runs.shutil, "disk_usage", lambda path: Usage(10**5))
    with pytest.raises(InputError, match="has 0 MB left, and this training needs .* MB"):
        train_in(tmp_path)
    assert Runs(tmp_path).all() == []


@dataclasses.dataclass
class Usage:
    free: int


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="^runs: the folder .*tower_with_roof.* cannot be written"):
        train_in(tmp_path / "runs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot copy a process (os.fork)")
def test_one_process_trains_a_run_at_a_time(tmp_path):
    run, training = Run(tmp_path / "x"), Training(tiny_model(CONFIG), REFERENCES, CONFIG)

    def other():
        with pytest.raises(InputError, match="another process is training x"), run.kept(training, plan(), tmp_path):
            pass
        die()

    def delete():
        with pytest.raises(InputError, match="x is being trained"):
            run.delete()
        die()

    with run.kept(training, plan(), tmp_path):
        assert killed(other) and killed(delete)
    with run.kept(training, plan(), tmp_path):
        pass


def test_a_run_that_another_process_has_trained_on_is_not_set_back(tmp_path):
    late = Training(tiny_model(CONFIG), REFERENCES, CONFIG)
    run = cut_in(tmp_path, stop=2)
    with pytest.raises(InputError, match="has trained .* on to step 2"), run.kept(late, plan(), tmp_path):
        pass
    assert run.record.steps_done == 2


def test_snapshots_are_tailorings_that_stay(tmp_path):
    run = Runs(tmp_path).choose(plan())
    training = Training(tiny_model(CONFIG), REFERENCES, CONFIG)
    with run.kept(training, plan(), tmp_path, snapshot_every=3) as keeper:
        for _ in training:
            keeper.after_step()
    assert [load_tailoring(path).steps_done for path in run.snapshots] == [3, 6]


def test_a_run_is_deleted_with_its_own_files_alone(tmp_path):
    first, second = cut_in(tmp_path, stop=1), train_in(tmp_path, seed=1)
    first.keep_picture(Image.new("RGB", (8, 8), "red"), "of red")
    (second.folder / "notes.txt").write_text("mine")
    os.utime(first.state, (1, 1))
    assert [run.name for run in Runs(tmp_path).older_than(1)] == [first.name]
    assert first.picture("of blue") is None and first.picture("of red").getpixel((0, 0)) == (255, 0, 0)
    first.delete()
    second.delete()
    assert not first.folder.exists() and [path.name for path in second.folder.iterdir()] == ["notes.txt"]


def test_damaged_states_are_refused_and_never_written_over(tmp_path):
    """Bits turned, bytes cut out or put in: what is said is ours, and the damaged file stays."""
    state = cut_in(tmp_path / "whole", stop=5).state
    original, numbers = state.read_bytes(), random.Random(0)
    folder = tmp_path / "damaged" / state.parent.name
    folder.mkdir(parents=True)
    path = folder / state.name
    training = Training(tiny_model(CONFIG), REFERENCES, CONFIG)
    refused = 0
    for _ in range(400):
        contents = damaged(original, numbers)
        path.write_bytes(contents)
        try:
            Run(folder).restore(training)
            read_state(path)
        except InputError as error:
            assert error.field == "run"
            refused += 1
        assert path.read_bytes() == contents
    assert refused > 200
    path.write_bytes(original[:-1])
    run = Runs(tmp_path / "damaged").choose(plan())
    assert run.name == f"{folder.name}_2" and Runs(tmp_path / "damaged").all() == []


def test_each_part_of_a_checkpoint_has_its_fingerprint():
    def parts(**changes):
        loaded = {
            "network": {"a": torch.ones(3)},
            "text_encoders": {"clip_l": {"b": torch.ones(3), "text_projection.weight": torch.rand(3, 3)}},
            "autoencoder": {"c": torch.ones(3)},
            "schedule": scaled_linear_schedule(),
            "tokenizers": {},
        }
        return of_checkpoint(CheckpointWeights(**loaded | changes))

    # the projection is what the host left in memory
    assert parts() == parts()

    def changed(**changes):
        return {name for name, fingerprint in parts(**changes).items() if fingerprint != parts()[name]}

    assert (
        changed(network={"a": torch.zeros(3)}) == changed(schedule=scaled_linear_schedule("v_prediction")) == {"model"}
    )
    assert changed(schedule=scaled_linear_schedule(beta_end=0.011)) == {"model"}
    assert changed(text_encoders={"clip_l": {"b": torch.zeros(3)}}) == changed(text_layer=-2) == {"clip"}
    assert changed(autoencoder={"c": torch.zeros(3)}) == {"vae"}


def test_fingerprints_see_what_changes(tmp_path):
    weights = {"a": torch.randn(300, 300), "b": torch.zeros((), dtype=torch.float16)}
    patched = weights | {"a": weights["a"] + 1e-3 * torch.randn(300, 4) @ torch.randn(4, 300)}
    assert of_weights(weights) == of_weights({key: tensor.clone() for key, tensor in weights.items()})
    assert len({of_weights(w) for w in (weights, patched, weights | {"b": torch.ones(())})}) == 3
    file = tmp_path / "x.safetensors"
    seen = set()
    for contents in (b"", b"a" * 10_000, b"a" * 9_999 + b"b", b"a" * 10_001):
        file.write_bytes(contents)
        seen |= {of_files(file), of_files(tmp_path)}
    assert len(seen) == 8
    (tmp_path / ".DS_Store").write_bytes(b"of no matter")
    assert of_files(tmp_path) in seen
