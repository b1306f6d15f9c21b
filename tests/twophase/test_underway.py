"""Jobs that train for long go on from the middle, with the bits of one that was never stopped."""

import contextlib

import pytest

from twophase import chaos, config, linear, rundir
from twophase.rundir import RunDir


class Killed(Exception):
    pass


def started(finished, tiny, path, **training):
    """A run that is trained, with its twins and switches to be done."""
    values = tiny.model_dump()
    values["training"] |= training
    values["chaos"]["lockstep"] = path.name.split("-")[0]
    run = RunDir.create(path, config.build(values))
    (path / "checkpoints").symlink_to(finished.path / "checkpoints")
    return run


def follow(run, dataset, job):
    (chaos.follow if isinstance(job[0], int) else linear.follow)(run, dataset, *job)


def results(run):
    parts = [p for part in ("chaos", "linear") for p in sorted((run.path / part).rglob("*.json"))]
    return {p.relative_to(run.path): p.read_bytes() for p in parts}


JOBS = {
    "off-twin": (0, (1,)),
    "on-twins": (6, (0, 1)),
    "off-late": (16, (1,)),
    "off-linear": ("taylor", 0),
    "off-frozen": ("nonlinear-frozen", 10),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_is_killed_at_each_of_its_writes(
    name, finished, tiny, dataset, tmp_path, monkeypatch
):
    job = JOBS[name]
    straight = started(finished, tiny, tmp_path / f"{name}-straight")
    follow(straight, dataset, job)
    assert not (straight.path / "underway").exists()

    run = started(finished, tiny, tmp_path / name, save_every=3)
    write, kills = rundir.write_atomic, 0

    def dies(path, content):
        write(path, content)
        raise Killed

    monkeypatch.setattr(rundir, "write_atomic", dies)
    while len(results(run)) < len(results(straight)):  # else the stage has the job done
        before = set(run.path.rglob("*.*"))
        with contextlib.suppress(Killed):
            follow(run, dataset, job)
        kills += 1
        assert set(run.path.rglob("*.*")) != before  # every call gets as far as one more write
    assert kills >= 2
    assert results(run) == results(straight)


def test_a_changed_state_is_noticed(finished, tiny, dataset, tmp_path, monkeypatch):
    """The test above can fail: what is kept is what training goes on from."""
    straight = started(finished, tiny, tmp_path / "off-straight")
    follow(straight, dataset, JOBS["off-twin"])
    run = started(finished, tiny, tmp_path / "off-changed", save_every=3)
    load = RunDir.load_state

    def other(self, path):
        state = load(self, path)
        if "underway" in path.parts:
            state = {k: v for k, v in state.items() if "momentum" not in k}
        return state

    write = rundir.write_atomic

    def dies(path, content):
        write(path, content)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(rundir, "write_atomic", dies)
        with pytest.raises(Killed):
            follow(run, dataset, JOBS["off-twin"])
    monkeypatch.setattr(RunDir, "load_state", other)
    follow(run, dataset, JOBS["off-twin"])
    assert results(run) != results(straight)


def test_states_of_a_job_that_is_done_are_gone(finished, tiny, dataset, tmp_path):
    run = started(finished, tiny, tmp_path / "off-done", save_every=3)
    follow(run, dataset, JOBS["off-late"])
    assert not list((run.path / "underway").rglob("*.safetensors"))


def test_what_a_kill_left_goes_with_the_table(finished, tiny, dataset, tmp_path):
    run = started(finished, tiny, tmp_path / "off-left", save_every=3)
    left = [
        run.path / "underway" / stage / "job" / "s.safetensors" for stage in ("chaos", "linear")
    ]
    for file in left:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
    for job in chaos.jobs(run.config):
        chaos.follow(run, dataset, *job)
    chaos.collect(run)
    assert [file.exists() for file in left] == [False, True]
