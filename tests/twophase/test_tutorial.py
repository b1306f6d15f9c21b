"""docs/tutorial.md, block by block, as a reader would run it."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```(python|text)\n(.*?)^```$", PAGE, re.M | re.S)
WORD = re.compile(r"(?<=effect: )(seen|seen in part|not seen)$", re.M)  # processors differ


def test_every_block_runs_and_prints_what_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    threads, names = torch.get_num_threads(), {"__name__": "tutorial"}
    try:
        for kind, content in BLOCKS:
            if kind == "python":
                exec(compile(content, "docs/tutorial.md", "exec"), names)
            else:
                printed = capsys.readouterr().out
                assert WORD.sub("#", printed) == WORD.sub("#", content)
    finally:
        torch.set_num_threads(threads)
    assert [kind for kind, _ in BLOCKS].count("text") == 1
    assert Path("mine/report.html").exists()
