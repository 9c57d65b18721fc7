# make demo    a venv, the pinned packages, three real trainings on the CPU, the figure
# make study   the study of docs/study.md: the article's four ablations and a temperature schedule, eight seeds each; it
#              takes a night, and goes on where it was when it is typed again
# make test    a venv, the pinned packages, lint, types, every test
# make test-vllm    tests/vllm in a venv of its own: veRL's vLLM rollout, as GPUs run it, on the CPU
# Needs Python 3.11 or 3.12; no GPU, no compiler. Some tests need more (a SLURM, a browser, namespaces: tests/needs.py).
# Those of reasoning-gym need a C compiler and Python's headers. Where that is missing, `make test` leaves them out, and
# says which and what to install. Where CI is set none is left out.
# TORCH_ARGS picks another source of torch's CPU build, e.g.
#   make demo TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
TORCH_ARGS ?=
BIN = $(VENV)/bin
PIP = $(BIN)/pip --disable-pip-version-check --quiet
# pip compiles bytecode with one process: --no-compile leaves it to `compileall`, which uses all cores. Some packages ship
# files that are not Python's, or not this version's.
COMPILE = $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib >/dev/null || true

.PHONY: demo study test test-vllm install lint types tests figure clean
.DEFAULT_GOAL := demo

demo: install
	$(BIN)/python -m experiments.run -m rollout.temperature=0.6,1.0,1.2
	$(BIN)/python -m analysis.plot_ablation
	@printf '\nwhat to type next:\n'
	@printf '  where the runs are      $(BIN)/python -m experiments.runs list\n'
	@printf '  the other ablations     $(BIN)/python -m experiments.run -m algorithm=grpo,ppo\n'
	@printf '                          $(BIN)/python -m experiments.run -m rollout.n=3,5,8\n'
	@printf '                          $(BIN)/python -m experiments.run -m kl.coef=0.01,0,0.001\n'
	@printf '  three seeds, for bands  $(BIN)/python -m experiments.run -m rollout.temperature=0.6,1.0,1.2 seed=1,2,3\n'
	@printf '  then the figures        $(BIN)/python -m analysis.plot_ablation\n'
	@printf '  on one page             $(BIN)/python -m analysis.report\n'

test: lint types tests

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "error: Python must be 3.11 or 3.12, but is $$($(PYTHON) --version 2>&1); do: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt $(TORCH_ARGS) torch --no-compile
	$(PIP) install -c constraints.txt -e '.[cpu,dev]' --no-compile
	@$(COMPILE)
	@touch $@

$(VENV)/.peers: $(VENV)/.installed tests/analysis/peers.txt
	rm -rf $(VENV)/peers
	$(PIP) install --no-deps --target $(VENV)/peers -r tests/analysis/peers.txt
	@touch $@

# reasoning-gym's pycosat has no wheel. Without a compiler or Python's headers its tests are left out (tests/needs.py).
INCLUDES = $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
$(VENV)/.reasoning-gym: $(VENV)/.installed
	@if echo '#include <Python.h>' | cc -E -I"$(INCLUDES)" - >/dev/null 2>&1; then \
	  $(PIP) install -c constraints.txt reasoning-gym --no-compile && touch $@; fi

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: install
	$(BIN)/mypy

# Many tests start Python anew: without bytecode each would compile the project.
tests: install $(VENV)/.peers $(VENV)/.reasoning-gym
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 3

test-vllm:
	PYTHON="$(PYTHON)" TORCH_ARGS="$(TORCH_ARGS)" .ci/vllm

# SWEEPS, SEEDS and STEPS make it smaller, SETTINGS are more overrides; STUDY is the folder of its runs and figures.
SWEEPS ?= all,annealing
SEEDS ?= 1,2,3,4,5,6,7,8
STEPS ?= 80
SETTINGS ?=
STUDY ?= study
study: install
	$(BIN)/python -m experiments.run -m sweeps=$(SWEEPS) seed=$(SEEDS) trainer.total_training_steps=$(STEPS) \
	  runs_dir=$(STUDY)/runs hydra.launcher.retries=2 $(SETTINGS)
	for axis in step tokens gpu_hours samples; do \
	  $(BIN)/python -m analysis.plot_ablation --runs $(STUDY)/runs --equal $$axis --out $(STUDY)/figures/$$axis || exit; done
	$(BIN)/python -m analysis.report --runs $(STUDY)/runs --out $(STUDY)/report.html

figure: install
	$(BIN)/python -m analysis.plot_ablation

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
