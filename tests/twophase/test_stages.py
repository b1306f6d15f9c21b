import json

import pytest

from twophase import stages
from twophase.rundir import RunDir


def copy(source, target, *patterns):
    for pattern in patterns:
        for file in source.glob(pattern):
            new = target / file.relative_to(source)
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(file.read_bytes())


def results(run):
    """Everything but the record of the machine and of the time."""
    found = (p for p in run.path.rglob("*") if p.is_file())
    skipped = ("log.jsonl", "environment.json")
    return {str(p.relative_to(run.path)): p.read_bytes() for p in found if p.name not in skipped}


def different(run, other):
    """Names of the files that are not the same in both."""
    a, b = results(run), results(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def test_a_stage_brings_what_it_needs_and_no_more(finished, perform, tmp_path):
    run = RunDir.create(tmp_path / "run", finished.config)
    bar = perform(run, "cone")
    assert bar.finished == {"train": "worked", "kernels": "worked", "cone": "worked"}
    assert not (run.path / "chaos").exists()


def test_finished_stages_are_skipped_and_not_touched(finished, perform):
    before = {p: p.stat().st_mtime_ns for p in finished.path.rglob("*") if p.is_file()}
    bar = perform(finished, "chaos", "cone", "linear")
    assert set(bar.finished.values()) == {"skipped"}
    assert before == {p: p.stat().st_mtime_ns for p in finished.path.rglob("*") if p.is_file()}


def test_workers_change_no_bit(finished, perform, tmp_path):
    run = RunDir.create(tmp_path / "run", finished.config)
    perform(run, "chaos", "cone", "linear", workers=2)
    assert different(run, finished) == []


@pytest.mark.parametrize(
    ("stage", "lost"),
    [
        ("train", "checkpoints/constant/step-000014.safetensors"),
        ("train", "tables/train.csv"),
        ("chaos", "tables/barrier.csv"),
        ("kernels", "kernels/schedule/step-000010.h5"),
        ("cone", "tables/cone_lagged.csv"),
        ("linear", "linear/taylor/switch-000010.json"),
    ],
)
def test_a_file_that_is_lost_comes_back_the_same(finished, perform, tmp_path, stage, lost):
    run = RunDir.create(tmp_path / "run", finished.config)
    copy(finished.path, run.path, "**/*.*")
    (run.path / lost).unlink()
    assert not stages.complete(run, stage)
    perform(run, stage)
    assert different(run, finished) == []


def test_progress_counts_to_its_total_also_when_half_is_there(finished, perform, tmp_path):
    run = RunDir.create(tmp_path / "run", finished.config)
    copy(finished.path, run.path, "checkpoints/*/step-0000[01]*")
    bar = perform(run, "train")
    assert bar.totals["train"] == bar.counts["train"] == 20 + (20 - 12)


def test_environment_says_what_the_numbers_rest_on(finished):
    found = json.loads((finished.path / "environment.json").read_text())
    assert found["versions"].keys() >= {"python", "torch", "entk", "numpy"}
    assert found["dtype"] == "float32"
    assert found["torch_threads_per_worker"] == 1
    assert found["stage_seconds"].keys() == {"train", "chaos", "kernels", "cone", "linear"}
    assert any(line.split()[:2] == ["conv.weight", "conv"] for line in found["kernel_plan"])
    events = [json.loads(line) for line in (finished.path / "log.jsonl").open()]
    assert [e["stage"] for e in events if e["event"] == "done"][-1] == "linear"


def test_a_report_that_is_written_again_leaves_the_record_of_what_was_measured(
    finished, perform, tmp_path, monkeypatch
):
    copy(finished.path, tmp_path, "config.toml", "environment.json", "**/*.safetensors")
    copy(finished.path, tmp_path, "**/*.csv*", "**/*.json", "**/*.h5")
    run = RunDir.open(tmp_path)
    before = json.loads((tmp_path / "environment.json").read_text())
    monkeypatch.setattr("sys.argv", ["twophase", "report", "elsewhere"])
    (tmp_path / "report.json").unlink(missing_ok=True)
    perform(run, "report")
    after = json.loads((tmp_path / "environment.json").read_text())
    assert after["stage_seconds"].pop("report") != before["stage_seconds"].pop("report", None)
    assert after == before
