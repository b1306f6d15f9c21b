"""What an installation needs and gives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import torch

import entk
from entk.ops import native

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SITE = Path(torch.__file__).parents[1]


def canonical(requirement: str) -> str:
    """The name in a requirement, as package indexes compare it."""
    return re.sub("[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def python(program: str, **options) -> str:
    command = [options.pop("executable", sys.executable), "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_building_needs_no_torch():
    needed = {canonical(r) for r in PROJECT["build-system"]["requires"]}
    assert needed == {"setuptools", "wheel", "pybind11"}


def test_constraints_are_exact_and_complete():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(
        re.fullmatch(r"\d+(\.\d+)*(a\d+)?(\.post\d+)?", version) for version in pins.values()
    )
    project = PROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    assert {canonical(r) for group in groups for r in group} <= {canonical(name) for name in pins}
    assert pins["torch"] == "2.13.0"
    assert pins["torchvision"] == "0.28.0"


def test_import_is_as_fast_as_torch_itself():
    program = (
        "import time, torch; t = time.perf_counter(); import entk; print(time.perf_counter() - t)"
    )
    assert min(float(python(program)) for _ in range(3)) <= 0.3


def test_import_loads_what_signatures_and_arrays_need_only():
    program = """
import sys, torch, numpy, h5py, jaxtyping
before = {name.split(".")[0] for name in sys.modules}
import entk
print(*{name.split(".")[0] for name in sys.modules} - before - sys.stdlib_module_names)
"""
    assert python(program).split() == ["entk"]


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_extension_is_built_used_and_fresh():
    assert entk.backends()["native"] == "ok"
    built = Path(native._native.__file__)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert [p.name for p in built.parent.glob(f"_native*{suffix}")] == [built.name]
    newest = max(p.stat().st_mtime for p in (ROOT / "csrc").iterdir())
    assert built.stat().st_mtime >= newest, "csrc is newer than the extension: run make again"


@pytest.fixture
def checkout(tmp_path):
    """The files of the project without anything built from them."""
    made = ("build", "dist", "runs", "*.egg-info", "*.so", "_build_info.json")
    junk = shutil.ignore_patterns(".*", *made)
    return shutil.copytree(ROOT, tmp_path / "checkout", ignore=junk)


@pytest.fixture
def fresh(tmp_path):
    """The interpreter of a new environment that has our dependencies, torch too, but not entk."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    dependencies = tmp_path / "dependencies"
    dependencies.mkdir()
    ours = re.compile(r"(__editable__.*)?_*(entk|twophase)\b.*|pip\b.*")
    for entry in SITE.iterdir():
        if not ours.match(entry.name):
            (dependencies / entry.name).symlink_to(entry)
    found = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (found / "dependencies.pth").write_text(f"{dependencies}\n")
    return tmp_path / "venv" / "bin" / "python"


@pytest.fixture
def builder(fresh):
    """That interpreter with what a build needs, as an isolated build has it."""
    command = [fresh, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += ["-c", ROOT / "constraints.txt", *PROJECT["build-system"]["requires"]]
    subprocess.run(command, check=True)
    return fresh


def install(interpreter: Path, what: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [interpreter, "-m", "pip", "install", "--disable-pip-version-check", what]
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def without_compilers(interpreter: Path) -> dict[str, str]:
    return {"CC": "/bin/false", "CXX": "/bin/false", "PATH": str(interpreter.parent)}


@pytest.mark.packaging
def test_install(checkout, fresh, tmp_path):
    log = tmp_path / "pip.log"  # tells of the isolated build as well
    done = install(fresh, checkout, PIP_LOG=str(log))
    assert done.returncode == 0, done.stdout + done.stderr
    installed = re.findall(r"Successfully installed (.*)", log.read_text())
    names = {dist.rpartition("-")[0] for dist in " ".join(installed).split()}
    assert names == {
        "entk",
        "setuptools",
        "wheel",
        "pybind11",
        "packaging",
    }  # wheel needs packaging
    program = """
import entk, twophase, torch
from pathlib import Path
a = torch.randn(3, 4)
assert abs(entk.kernel_distance(a, 2 * a)) == 0
assert (Path(entk.__file__).parent / "py.typed").exists()
assert list((Path(twophase.__file__).parent / "templates").iterdir())
print(entk.__file__, entk.backends()["native"])
"""
    file, status = python(program, executable=fresh, cwd=tmp_path).split(maxsplit=1)
    assert Path(file).is_relative_to(tmp_path / "venv")
    assert status == "ok"
    subprocess.run([fresh.with_name("twophase"), "--help"], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.packaging
def test_install_without_a_compiler(checkout, fresh, tmp_path):
    done = install(fresh, checkout, **without_compilers(fresh))
    assert done.returncode == 0, done.stdout + done.stderr
    program = """
import entk, torch
assert entk.kernel_distance(torch.ones(2, 2), torch.eye(2)) > 0
print(entk.backends())
"""
    found = python(program, executable=fresh, cwd=tmp_path)
    assert "the build failed: " in found
    assert "install a C++17 compiler and reinstall entk" in found


@pytest.mark.packaging
def test_a_required_extension_fails_without_a_compiler(checkout, fresh):
    done = install(fresh, checkout, **without_compilers(fresh), ENTK_BUILD_EXT="1")
    assert done.returncode != 0
    assert "/bin/false" in done.stdout + done.stderr


@pytest.mark.packaging
def test_a_failed_build_leaves_no_old_extension(checkout, builder):
    build = [builder, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=checkout, check=True, env={**os.environ, "ENTK_BUILD_CUDA": "0"})
    assert list((checkout / "entk").glob("_native*"))
    broken = {**os.environ, **without_compilers(builder)}
    subprocess.run(build, cwd=checkout, check=True, env=broken)
    assert not list((checkout / "entk").glob("_native*"))
    program = "import entk; print(entk.backends()['native'])"
    assert "the build failed" in python(program, executable=builder, cwd=checkout)


@pytest.mark.packaging
def test_source_distribution_is_complete(checkout, builder, tmp_path):
    program = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    command = [builder, "-c", program, str(tmp_path)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    (archive,) = tmp_path.glob("entk-*.tar.gz")
    done = install(builder, archive, ENTK_BUILD_EXT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    program = "import entk, twophase.cli; print(entk.backends()['native'])"
    assert python(program, executable=builder, cwd=tmp_path) == "ok"
