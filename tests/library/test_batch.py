"""`python -m magictailor batch`: every job once, the same bytes however many processes there are and what cuts them."""

import csv
import json
import pathlib
import sys
from functools import partial

import fsspec
import pytest
from deadly import killed_once
from PIL import Image
from tiny_batch import contents, toy_pairs

from magictailor.__main__ import main
from magictailor.batch.jobs import Job, Outcome, local_devices, outcome_of, perform
from magictailor.batch.results import as_page
from magictailor.batch.storage import Storage
from magictailor.batch.study import Asha, CheckpointSource, Drawing, Study, read_study
from magictailor.batch.tailor import tailored
from magictailor.errors import InputError
from magictailor.fingerprints import of_checkpoint_files
from magictailor.formats.csv_table import as_csv
from magictailor.formats.tailoring_file import load_tailoring
from tools.tiny_checkpoint import make_tiny_checkpoint
from toytown.model import load_tokenizer
from toytown.vision import load_clip

ROOT = pathlib.Path(__file__).parents[2]
SHORT = ["phase1_train_steps=1", "phase2_train_steps=1", "resolution=64", "lora_rank=2"]
NO_CHECKPOINT = CheckpointSource("x", None, None, "")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A folder with a house and a cup, each with its own part."""
    return toy_pairs(tmp_path_factory.mktemp("pairs"), (0, 3))


def batch(checkpoint, study, output, *more):
    drawn = ["--steps", "2", "--width", "64", "--height", "64"]
    return main(
        ["batch", str(study), "--pretrained_model_name_or_path", str(checkpoint), "--output_dir", str(output),
         "--device", "cpu", "--workers", "1", *drawn, "--settings", *SHORT, *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(checkpoint, pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    assert batch(checkpoint, pairs, output, "--grid", "seed=0,1", "--seeds", "0", "5") == 0
    return output


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The toy town's CLIP as a folder of transformers'."""
    folder = tmp_path_factory.mktemp("clip")
    load_clip().save_pretrained(folder)
    load_tokenizer().save_pretrained(folder)
    return str(folder)


def rows_of(output):
    with (output / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pixels(path):
    with Image.open(path) as picture:
        return picture.copy()


def test_every_pair_is_learned_with_every_setting_and_draws_every_seed(finished):
    rows = rows_of(finished)
    assert [(row["pair"], row["seed"], row["noise seed"]) for row in rows] == [
        (pair, seed, noise) for pair in ("cup_3+handle_3", "house_0+roof_0") for seed in "01" for noise in "05"
    ]
    assert {row["prompt"] for row in rows} == {"<v0> with <v1>"}
    assert len({pixels(finished / row["picture"]).tobytes() for row in rows}) == len(rows)
    for row in rows:
        tailoring = load_tailoring(finished / row["tailoring"])
        assert tailoring.finished and tailoring.config.seed == int(row["seed"])
        assert float(row["concept loss"]) > 0 and float(row["component 1 loss"]) > 0
    page = (finished / "results.html").read_text()
    assert all(json.dumps(row["picture"])[1:-1] in page for row in rows) and "http" not in page
    assert pixels(finished / "contact_sheet.jpg").height > 4 * 160


def test_what_is_done_is_not_done_again_and_more_can_be_drawn_and_scored(
    checkpoint, pairs, finished, encoder, monkeypatch
):
    before = contents(finished)
    monkeypatch.setattr("magictailor.batch.tailor.Training", None)
    more = ("--grid", "seed=0,1", "--seeds", "0", "5", "6", "--encoders", encoder)
    assert batch(checkpoint, pairs, finished, *more) == 0
    after = contents(finished)
    made = {path for path in after if path not in before}
    assert sorted(path.suffix for path in made) == [".json"] * 4 + [".png"] * 4
    summary = ("results.csv", "results.html", "contact_sheet.jpg")
    assert all(after[path] == before[path] for path in before if path.name not in summary)
    rows = rows_of(finished)
    assert len(rows) == 12
    name = pathlib.Path(encoder).name
    for measure in ("concept", "component 1", "background", "prompt"):
        assert all(0 < abs(float(row[f"{name} {measure}"])) <= 1 for row in rows)


def test_two_processes_leave_the_same_bytes_as_one(checkpoint, pairs, finished, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    more = ("--grid", "seed=0,1", "--seeds", "0", "5", "6", "--encoders", encoder, "--workers", "2")
    assert batch(checkpoint, pairs, tmp_path, *more) == 0
    # written when it was half as long
    left_out = [path.name for path in finished.rglob("result-*.json")]
    assert contents(tmp_path, *left_out, *(p.name for p in tmp_path.rglob("result-*.json"))) == contents(
        finished, *left_out
    )


def test_what_pictures_are_learned_from_badly_is_told(checkpoint, tmp_path, capsys):
    pairs = toy_pairs(tmp_path / "pairs", (0,))
    large = ["phase1_train_steps=1", "phase2_train_steps=0", "resolution=128", "lora_rank=2"]
    assert batch(checkpoint, pairs, tmp_path / "out", "--settings", *large) == 0
    (row,) = rows_of(tmp_path / "out")
    concept, component = row["notes"].split("; ")[::2]
    assert concept.startswith("house, picture 1, 2, 3: is enlarged to 128 pixels")
    assert component.startswith("roof, picture 1, 2, 3: is enlarged to 128 pixels")
    assert f": {row['notes']}" in capsys.readouterr().out


def test_other_pictures_in_a_folder_are_another_training(checkpoint, tmp_path):
    pairs = toy_pairs(tmp_path / "pairs", (1,))
    (first,) = study(pairs, checkpoint).jobs()
    picture = next(pairs.rglob("0_0.png"))
    pixels(picture).rotate(90).save(picture)
    (second,) = study(pairs, checkpoint).jobs()
    assert first.name != second.name and first.result_file != second.result_file


def study(pairs, checkpoint, **changes):
    return Study(tuple(read_study(pairs)["pairs"]), NO_CHECKPOINT, **changes)


def test_results_at_an_address_are_those_on_a_disk(checkpoint, pairs, finished, tmp_path, capsys):
    study = tmp_path / "study.yaml"
    study.write_text(f"pairs: {pairs}/house_0+roof_0\n")
    url = "memory://test_batch"
    for _ in range(2):
        assert batch(checkpoint, study, url, "--grid", "seed=0", "--seeds", "0", "5") == 0
    said = capsys.readouterr().out.split()
    assert said[-3:] == [f"{url}/{name}" for name in ("results.csv", "contact_sheet.jpg", "results.html")]
    files, root = fsspec.core.url_to_fs(url)
    Storage(url).fetch([path.removeprefix(f"{root}/") for path in files.find(root)], tmp_path / "stored")
    (job,) = {path.parts[0] for path in contents(tmp_path / "stored") if len(path.parts) > 1}
    assert contents(tmp_path / "stored" / job).items() <= contents(finished / job).items()
    assert [row["noise seed"] for row in rows_of(tmp_path / "stored")] == ["0", "5"]
    assert pixels(tmp_path / "stored" / "contact_sheet.jpg").width > 2 * 160


def test_a_yaml_file_says_the_same_as_flags(checkpoint, pairs, tmp_path):
    (tmp_path / "study.yaml").write_text(
        f"pairs: {pairs}/house_0+roof_0\ncheckpoint: {checkpoint}\nsettings: {{phase1_train_steps: 1, "
        "phase2_train_steps: 0, resolution: 64}\ngrid: {lora_rank: [1, 2]}\n"
        "drawing: {prompts: ['a <v1>'], seeds: [3], steps: 1, width: 64, height: 64}\n"
    )
    assert main(["batch", str(tmp_path / "study.yaml"), "--output_dir", str(tmp_path), "--workers", "1",
                 "--device", "cpu"]) == 0  # fmt: skip
    rows = rows_of(tmp_path)
    assert [(row["lora_rank"], row["prompt"], row["noise seed"]) for row in rows] == [
        ("1", "a <v1>", "3"),
        ("2", "a <v1>", "3"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pears: x", "pears"),
        ("- x", "list"),
        ("pairs: [a", "study"),
        ("grid: 3", "grid"),
        ("grid: {lora_rank: 3}", "lora_rank"),
        ("grid: {lora_rang: [3]}", "lora_rang"),
        ("settings: {lora_rank: 0}", "lora_rank"),
        ("drawing: {stepps: 3}", "stepps"),
        ("drawing: {steps: 0}", "steps"),
        ("pairs: [3]", "pairs has to be a path"),
        ("encoders: 3", "encoders has to be a path"),
        ("checkpoint: [a, b]", "checkpoint has to be a path"),
    ],
)
def test_a_mistake_in_a_study_is_named(text, told, checkpoint, pairs, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(
        f"{text}\n" + ("" if "pairs" in text or text[0] == "-" else f"pairs: {pairs}\n")
    )
    status = main(["batch", str(tmp_path / "study.yaml"), "--pretrained_model_name_or_path", str(checkpoint),
                   "--output_dir", str(tmp_path / "out")])  # fmt: skip
    assert status == 2 and told in capsys.readouterr().err


def test_a_job_that_fails_is_told_and_the_others_are_done(checkpoint, pairs, tmp_path, capsys):
    broken = tmp_path / "pairs"
    toy_pairs(broken, (0, 1))
    next((broken / "house_0+roof_0" / "masks").iterdir()).unlink()
    assert batch(checkpoint, broken, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "there is no mask for" in said.out + said.err and "1 of 2 jobs" in said.err
    assert len(rows_of(tmp_path / "out")) == 1
    assert "there is no mask for" in (tmp_path / "out" / "results.html").read_text()


def test_a_killed_process_costs_no_result(tmp_path, monkeypatch):
    # the other processes have to find its module
    monkeypatch.setattr(sys, "path", [str(ROOT), str(pathlib.Path(__file__).parent), *sys.path])
    jobs = [Job("a", "deadly"), Job("b", ""), Job("c", "")]
    told = []
    outcomes = perform(killed_once, jobs, tmp_path, ["cpu", "cpu"], lambda job, outcome: told.append(job.name))
    assert [outcome.rows[0]["name"] for outcome in outcomes.values()] == ["a", "b", "c"]
    assert sorted(told) == ["a", "b", "c"]


def test_a_result_is_of_its_task_alone(tmp_path):
    perform(lambda job, folder, device: [{"x": job.task}], [Job("a", 1)], tmp_path, ["cpu"])
    assert outcome_of(tmp_path, Job("a", 1)).rows == ({"x": 1},)
    assert outcome_of(tmp_path, Job("a", 2)) is None


def test_devices_are_as_many_as_asked_for():
    assert local_devices("cpu", 3) == ["cpu"] * 3
    assert local_devices("cuda:1", 2) == ["cuda:1"] * 2
    assert set(local_devices("cpu")) == {"cpu"}


def test_a_table_has_the_columns_of_all_rows():
    assert as_csv([{"a": 1, "b": 0.123456789}, {"a": 2, "c": "x, y"}]) == 'a,b,c\n1,0.123457,\n2,,"x, y"\n'


def test_a_page_cannot_be_broken_by_what_it_shows():
    page = as_page([{"prompt": "</script><b>"}], {"<i>": "<u>"})
    assert page.count("</script>") == 1 and "&lt;i&gt;" in page and "<u>" not in page


def test_a_setting_that_is_not_there_is_refused(pairs):
    with pytest.raises(InputError, match="no setting 'rank'"):
        study(pairs, None, grid={"rank": [1]})
    with pytest.raises(InputError, match="twice"):
        study(pairs, None, grid={"lora_rank": [1, 1]})


JUDGED = {"phase1_train_steps": 1, "phase2_train_steps": 1, "resolution": 64, "lora_rank": 2}


def test_a_training_that_is_ended_early_keeps_what_it_has_and_the_others_are_as_ever(
    checkpoint, pairs, finished, encoder, tmp_path
):
    source = CheckpointSource(str(checkpoint), None, None, of_checkpoint_files(checkpoint, None, None))
    drawing = Drawing(seeds=(5,), steps=2, width=64, height=64)
    given = (tuple(read_study(pairs)["pairs"][:1]), source, JUDGED, {"seed": [0, 1]}, drawing, (pathlib.Path(encoder),))
    jobs, asked = Study(*given, asha=Asha(1)).jobs(), []

    def goes_on(name, step, score):
        asked.append((name, step, score))
        return name == jobs[1].name

    work = partial(tailored, goes_on=goes_on)
    ended, whole = perform(work, jobs, tmp_path, ["cpu"]).values()
    assert [(name, step) for name, step, _ in asked] == [(job.name, 1) for job in jobs]
    assert [row["ended at step"] for row in ended.rows] == [1] and "ended at step" not in whole.rows[0]
    name = pathlib.Path(encoder).name
    mean = sum(row[f"{name} {what}"] for row in ended.rows for what in ("concept", "component 1")) / 2
    assert asked[0][2] == pytest.approx(mean)
    assert load_tailoring(tmp_path / ended.rows[0]["tailoring"]).steps_done == 1
    assert all((tmp_path / row["picture"]).parent.name == "at_step_1" for row in ended.rows)
    # previews on its way change nothing of what is learned
    own, before = contents(tmp_path), contents(finished)
    shared = {path: data for path, data in own.items() if path in before and path.suffix != ".json"}
    assert {path.name.split("_")[0] for path in shared} >= {"tailoring.safetensors", "state"}
    assert all(data == before[path] for path, data in shared.items())
    # what was said is not asked again: not of another process, and not when the result is lost
    (tmp_path / jobs[0].name / jobs[0].result_file).unlink()
    assert perform(work, jobs, tmp_path, ["cpu"])[jobs[0].name].rows == ended.rows and len(asked) == 2
    # to the end it is other work in the same folder
    for early, to_the_end in zip(jobs, Study(*given).jobs(), strict=True):
        assert early.name == to_the_end.name and early.result_file != to_the_end.result_file


def test_rungs_are_between_the_first_and_the_last_step():
    assert Asha(100).rungs(500) == (100, 400)
    assert Asha(1, 1.5).rungs(5) == (1, 2, 3, 4)
    assert Asha(100, 2.0).rungs(100) == ()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--asha_grace_period", "1"], "asha_grace_period: is for --ray alone"),
        (["--asha_grace_period", "1", "--ray", "x"], "encoders: there are none"),
        (["--asha_grace_period", "-1", "--ray", "x"], "asha_grace_period: is -1"),
        (["--asha_grace_period", "1", "--ray", "x", "--asha_reduction_factor", "1"], "asha_reduction_factor: is 1"),
    ],
)
def test_what_early_stopping_needs_is_told(checkpoint, pairs, tmp_path, capsys, more, told):
    assert batch(checkpoint, pairs, tmp_path, *more) == 2
    assert told in capsys.readouterr().err


def test_failures_have_no_rows():
    assert Outcome(failure="x").rows == ()
