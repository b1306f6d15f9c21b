# `make quickstart` and `make test` set up all they need; both start at once when repeated.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
STAMP = $(VENV)/.installed
TORCH = $(shell grep -E '^torch==' constraints.txt) $(shell grep -E '^torchvision==' constraints.txt)
FAST = not slow and not packaging and not gpu and not slurm and not hosts

.PHONY: help quickstart test lint slow hosts mutations fuzz torture packaging slurm bench bench-full gpu paper clean

help:
	@echo "make quickstart   install, train the digits run, write runs/quickstart/report.html"
	@echo "make test         install, check style, run the tests"
	@echo "make lint         style only"
	@echo "make slow         tests that take minutes, expected times among them: on an idle machine"
	@echo "make hosts        one kernel on two hosts (network namespaces: needs root), cut cables, ranks that hang"
	@echo "make mutations    deliberate mistakes that tests must notice (minutes; no part of make test)"
	@echo "make fuzz         10,000 damaged files through every reader (minutes; 500 are part of make test)"
	@echo "make torture      kills, disk errors and power loss at every call, counted (one to two hours)"
	@echo "make packaging    installs into fresh environments, with and without a compiler"
	@echo "make slurm        runs and sweeps through a SLURM of two nodes, started for it (as root; 15 minutes, 20 on a busy machine)"
	@echo "make bench        benchmarks beside other libraries, short set, to benchmarks/results/"
	@echo "make bench-full   every case (an hour or two); JAX=python-with-neural-tangents adds that"
	@echo "make gpu          tests and benchmarks on CUDA, results to benchmarks/results/"
	@echo "make paper        the paper's runs on CUDA, nine minutes a call, DATA=cifar10.npz"

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("Python 3.11 or later is needed, this is %d.%d: make PYTHON=/path/to/python3" % v)'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -c constraints.txt $(TORCH)
	$(VENV)/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

quickstart: $(STAMP)
	$(VENV)/bin/twophase run quickstart

test: $(STAMP) lint
	$(RUN) -m pytest -m "$(FAST)"

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

slow: $(STAMP)
	$(RUN) -m pytest -m slow -s

hosts: $(STAMP)
	$(RUN) -m pytest -m hosts -rs

mutations: $(STAMP)
	$(RUN) -m tests.mutations

fuzz: $(STAMP)
	$(RUN) -m tests.hostile --mutants 10000

torture: $(STAMP)
	$(RUN) -m tests.torture --json torture.json

packaging: $(STAMP)
	$(RUN) -m pytest -m packaging

slurm: $(STAMP)
	$(RUN) -m pytest -m slurm -rs

KERNELS = $(RUN) -m pytest benchmarks/test_ntk.py $(if $(JAX),--jax-python $(JAX)) -rs

bench: $(STAMP)
	$(VENV)/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(RUN) -m pytest benchmarks --ignore benchmarks/test_ntk.py --threads 1 --benchmark-json=benchmarks/results/cpu.json
	$(KERNELS) --benchmark-json=.benchmarks/ntk.json
	$(RUN) -m benchmarks.table

bench-full: $(STAMP)
	$(VENV)/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(KERNELS) --full --benchmark-json=.benchmarks/ntk.json
	$(RUN) -m benchmarks.table

gpu:
	@$(PYTHON) -m benchmarks.gpu

paper:
	@$(PYTHON) -m benchmarks.paper_scale --data $(DATA)

clean:
	rm -rf build dist *.egg-info $(VENV) entk/*.so entk/_build_info.json .pytest_cache .ruff_cache
