"""A whole run on a disk that fills up, at whatever size: one line, and then it goes on."""

from itertools import islice

import pytest

from tests.torture import subjects
from tests.torture.mounted import disk, enlarge
from twophase import cli, config, environment, report, stages

ENOUGH = "64m"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(): exit status of `twophase run` there; the same files each time."""
    monkeypatch.setattr(stages, "time", subjects.STILL)
    monkeypatch.setattr(environment, "_commit", lambda: "the same")
    figures = dict(islice(report.FIGURES.items(), 1, 2))  # to draw them all is what takes long
    monkeypatch.setattr(report, "FIGURES", figures)
    file = tmp_path / "tiny.toml"
    file.write_text(config.dump(config.build(subjects.values(subjects.samples(tmp_path)))))

    def command() -> int:
        try:
            cli.main(["run", str(file), "--out", str(tmp_path / "disk" / "run"), "--workers", "1"])
        except SystemExit as end:
            return end.code
        return 0

    return command


@pytest.fixture
def whole(command, tmp_path):
    """Files and bytes of a run on a disk with room for it."""
    with disk(tmp_path / "disk", ENOUGH):
        assert command() == 0
        found = subjects.contents(tmp_path / "disk")
    (tmp_path / "disk").rmdir()
    return found


def test_a_run_on_a_disk_that_fills_up_at_many_sizes(command, whole, tmp_path, capsys):
    pages = sum(-(-len(content) // 4096) for content in whole.values())
    sizes = sorted({1 + round(pages * share / 7) for share in range(7)})
    wrong = []
    for size in sizes:
        with disk(tmp_path / "disk", f"{4 * size}k"):
            capsys.readouterr()
            status, said = command(), capsys.readouterr().err.splitlines()
            said = [line for line in said if not line.endswith((" s", "exists"))]  # of stages
            if status != 2 or len(said) != 1 or "No space left on device" not in said[0]:
                wrong.append((size, status, said))
            elif str(tmp_path / "disk") not in said[0]:
                wrong.append((size, "names no file", said))
            found = subjects.contents(tmp_path / "disk")
            torn = [n for n in found.keys() & whole.keys() if found[n] != whole[n]]
            wrong += [(size, "torn", n) for n in torn if not n.endswith("environment.json")]
            enlarge(tmp_path / "disk", ENOUGH)
            assert command() == 0
            found = subjects.contents(tmp_path / "disk")
            wrong += [(size, "differs", n) for n in whole if found.get(n) != whole[n]]
            wrong += [(size, "was left", n) for n in found.keys() - whole.keys()]
        (tmp_path / "disk").rmdir()
    assert wrong == []
    assert len(sizes) == 7
