"""Two commands on one directory: the second is told of the first; reading needs no lock."""

import pytest
import torch

import entk
import twophase
from tests.entk.test_lock import Holder
from twophase import cli
from twophase.rundir import RunDir
from twophase.sweep import Sweep


@pytest.fixture
def second(capsys):
    """second(*arguments) of the command line: (exit status, lines on stderr)."""

    def second(*arguments) -> tuple[int, list[str]]:
        status = 0
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err.splitlines()

    return second


@pytest.mark.parametrize("verb", ["train", "report"])
def test_a_run_that_is_being_written(second, tiny, tmp_path, verb):
    run = RunDir.create(tmp_path / "run", tiny)
    process = Holder(run.path)
    status, said = second(verb, run.path)
    assert status == 2
    assert [line.split(";")[0] for line in said] == [
        f"twophase: {run.path} is being written by another process "
        f"({(run.path / '.lock').read_text().strip()})"
    ]
    assert str(process.pid) in said[0]
    assert second("status", run.path)[0] == 0
    process.kill()


@pytest.mark.parametrize(("held", "named"), [("", "sweep is being"), ("seed=0", "point seed=0: ")])
def test_a_sweep_and_its_points(second, tiny, tmp_path, held, named):
    sweep = Sweep.create(tmp_path / "sweep", tiny, {"seed": [0]})
    process = Holder(sweep.path / held)
    status, said = second("sweep", sweep.path, "--workers", "1")
    assert status == 2
    assert named in said[-1]
    assert f"({process.pid} on " in said[-1]
    assert second("status", sweep.path)[0] == 0
    process.kill()


def test_a_finished_run_that_may_only_be_read_is_read(finished, monkeypatch):
    """`twophase train` on it takes no lock, so it writes nothing."""
    monkeypatch.setattr(cli, "exclusive", None)
    monkeypatch.setattr(cli, "complete", lambda run, stage: True)
    cli.main(["train", str(finished.path)])


def test_a_second_recorder_and_a_second_study(tmp_path):
    one, two = (twophase.Recorder(tmp_path / "c", steps=[0, 1]) for _ in range(2))
    model = torch.nn.Linear(2, 2)
    one(0, model)
    with pytest.raises(entk.LockedError, match="is being written by another process"):
        two(0, model)
    del one
    two(1, model)
    assert sorted(p.name for p in (tmp_path / "c").glob("*.pt")) == [
        "step-00000000.pt",
        "step-00000001.pt",
    ]
