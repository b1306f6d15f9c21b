"""The extension module only; everything else is in pyproject.toml.

ENTK_BUILD_EXT=1 makes a failed build an error, ENTK_BUILD_EXT=0 leaves the extension out,
ENTK_BUILD_CUDA=0 leaves its CUDA part out even where nvcc is found.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = ("module", "gram_dot", "gemm", "fused_gram", "gram", "pairs_gram")
ARCHITECTURES = ("80", "90")
FLAGS = ["-O3", "-std=c++17"]
# float64 sums must not depend on whether the processor has a fused multiply-add
HOST_FLAGS = [*FLAGS, "-ffp-contract=off", "-Wno-psabi", "-fvisibility=hidden", "-pthread"]


class BuildOrSay(build_ext):
    """Builds the extension if it can; otherwise installs entk/_build_info.json with the reason."""

    def run(self):
        info = {"native": "ok", "cuda": "ok"}
        root = Path(__file__).parent if self.inplace else Path(self.build_lib)
        self.force = True  # nvcc or a compiler may have come or gone since the last build
        self.remove_stale(root)
        if os.environ.get("ENTK_BUILD_EXT") == "0":
            info = dict.fromkeys(info, "left out at build time by ENTK_BUILD_EXT=0")
            self.extensions = []
        else:
            try:
                info["cuda"] = self.add_cuda(self.extensions[0])
                super().run()
            except Exception as error:  # distutils raises many types; the reason is kept and shown
                if os.environ.get("ENTK_BUILD_EXT") == "1":
                    raise
                cause = textwrap.shorten(str(error), 160)
                reason = f"the build failed: {cause}; install a C++17 compiler and reinstall entk"
                info = dict.fromkeys(info, reason)
                self.extensions = []
        (root / "entk").mkdir(parents=True, exist_ok=True)
        (root / "entk" / "_build_info.json").write_text(json.dumps(info, indent=1))

    def remove_stale(self, root):
        """An extension of an earlier build must not be imported when this one fails."""
        (root / self.get_ext_filename("entk._native")).unlink(missing_ok=True)

    def add_cuda(self, extension):
        """Compile gram_dot.cu with nvcc and link it with the static runtime; say why if not."""
        nvcc = shutil.which("nvcc")
        if os.environ.get("ENTK_BUILD_CUDA") == "0":
            return "left out at build time by ENTK_BUILD_CUDA=0"
        if nvcc is None:
            return "nvcc was not found at build time; install the CUDA toolkit and reinstall entk"
        libraries = cuda_libraries(nvcc)
        if not libraries:
            return f"libcudart_static.a was not found beside {nvcc}; install the CUDA toolkit whole"
        target = Path(self.build_temp) / "gram_dot.cuda.o"
        target.parent.mkdir(parents=True, exist_ok=True)
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
        codes.append(f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}")
        command = [nvcc, "-c", "csrc/gram_dot.cu", "-o", str(target), *FLAGS, *codes]
        command += ["-Xcompiler", "-fPIC"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"nvcc failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}"
        extension.extra_objects.append(str(target))
        extension.library_dirs += libraries
        extension.libraries += ["cudart_static", "dl", "rt", "pthread"]
        extension.define_macros.append(("ENTK_WITH_CUDA", "1"))
        return "ok"


def cuda_libraries(nvcc):
    """Folders of the toolkit that hold the static runtime, as nvcc itself knows them."""
    done = subprocess.run(
        [nvcc, "--dryrun", "-c", "csrc/gram_dot.cu"], capture_output=True, text=True
    )
    top = re.search(r"TOP=(\S+)", done.stderr)
    root = Path(top.group(1)) if top else Path(nvcc).resolve().parent.parent
    places = [root / "lib64", root / "lib", *root.glob("targets/*/lib")]
    return [str(p.resolve()) for p in places if (p / "libcudart_static.a").exists()]


setup(
    ext_modules=[
        Extension(
            "entk._native",
            [f"csrc/{name}.cpp" for name in SOURCES],
            include_dirs=[pybind11.get_include()],
            extra_compile_args=HOST_FLAGS,
            extra_link_args=["-pthread", *(["-ldl"] if sys.platform == "linux" else [])],
            language="c++",
            depends=[str(path) for path in Path("csrc").iterdir()],
        )
    ],
    cmdclass={"build_ext": BuildOrSay},
)
