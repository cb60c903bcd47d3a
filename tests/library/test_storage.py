"""Results on a storage without paths: what is done there is found from anywhere, and what is cut there goes on."""

import time
import uuid

import fsspec
import pytest
from tiny_batch import toy_pairs

import magictailor.batch.storage
from magictailor.__main__ import main
from magictailor.batch.jobs import Job, Outcome, do, outcome_of, perform
from magictailor.batch.storage import Storage

JOB = Job("a", "task")


@pytest.fixture(params=["memory", "file"])
def storage(request, tmp_path):
    """An empty one."""
    return Storage(f"memory://{uuid.uuid4()}" if request.param == "memory" else f"file://{tmp_path}/stored")


def names(storage):
    files, root = fsspec.core.url_to_fs(storage.url)
    return sorted(path.partition(f"{root.rstrip('/')}/")[2] for path in files.find(root))


def counting(job, folder, device):
    """Counts to three in files, of which one is there at a time, and is cut at the first two tries."""
    counted = [int(path.stem) for path in folder.glob("[0-9].state")]
    number = max(counted, default=0) + 1
    (folder / f"{number}.state").write_text("x" * number)
    for old in counted:
        (folder / f"{old}.state").unlink()
    (folder / ".magictailor_0123456789abcdef.tmp").write_text("half")
    if number < 3:
        raise OSError("cut")
    return [{"counted": number, "picture": "a/b/c.png"}]


def test_a_job_that_is_cut_goes_on_elsewhere_and_is_done_once(storage):
    assert outcome_of(storage, JOB) is None
    assert do(counting, JOB, storage, "cpu").failure == "cut"
    assert names(storage) == ["a/1.state"]
    assert do(counting, JOB, storage, "cpu").failure == "cut"
    assert names(storage) == ["a/2.state"], "the state before is gone when the next one is there"
    outcome = do(counting, JOB, storage, "cpu")
    assert outcome.rows[0]["counted"] == 3 and outcome == outcome_of(storage, JOB)
    assert names(storage) == ["a/3.state", f"a/{JOB.result_file}"]
    assert perform(lambda *job: 1 / 0, [JOB], storage, ["cpu"]) == {"a": outcome}


def test_a_state_is_stored_while_the_job_goes_on_and_the_result_last(storage, monkeypatch):
    monkeypatch.setattr(magictailor.batch.storage, "EVERY", 0.01)
    stored = []
    store = Storage.store

    def watched(self, folder, names):
        store(self, folder, names := list(names))
        stored.extend(names)

    monkeypatch.setattr(Storage, "store", watched)

    def wait_for(name):
        for _ in range(10_000):
            if name in stored:
                return
            time.sleep(0.002)
        raise AssertionError(name)

    def work(job, folder, device):
        (folder / "state").write_text("x")
        wait_for("a/state")
        (folder / JOB.result_file).write_text("not yet")
        (folder / "picture").write_text("y")
        wait_for("a/picture")
        (folder / JOB.result_file).unlink()
        return []

    assert do(work, JOB, storage, "cpu") == outcome_of(storage, JOB)
    assert stored == ["a/state", "a/picture", f"a/{JOB.result_file}"]


def test_a_storage_that_fails_costs_this_job_alone(storage, monkeypatch):
    def full(self, folder, names):
        raise OSError("no space")

    monkeypatch.setattr(Storage, "store", full)
    outcome = do(lambda job, folder, device: [], JOB, storage, "cpu")
    assert outcome == Outcome(failure=f"{storage.url}: no space")


def test_names_that_lead_elsewhere_are_not_followed(storage):
    files, root = fsspec.core.url_to_fs(storage.url)
    files.makedirs(f"{root}/a", exist_ok=True)
    files.pipe_file(f"{root}/a/good", b"x")
    listed = Storage._names
    assert listed(storage, "a") == ["a/good"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(files), "find", lambda self, path: [f"{root}/a/../../bad", f"{root}/a/good"])
        assert listed(storage, "a") == ["a/good"]


def test_an_address_of_an_unknown_kind_is_told(tmp_path, capsys):
    pairs, output = toy_pairs(tmp_path / "pairs", (0,)), ["--output_dir", "moon://x"]
    assert main(["batch", str(pairs), "--pretrained_model_name_or_path", str(tmp_path), *output]) == 2
    assert "output_dir: moon://x cannot be opened" in capsys.readouterr().err
