# A fresh machine needs Python 3.10 or later, pip and make; everything else lands in .venv and .cache.
#
#   make PYTHON=python3.12 demo        another interpreter
#   make TORCH_INDEX=URL demo          another index for torch, e.g. its CPU builds for Linux:
#                                      https://download.pytorch.org/whl/cpu
#   make test TESTS=tests/readers      some of the tests;  PYTEST_ARGS="-x -q" as you like
#   make PEERS=all bench-transplant    with the libraries of the pairs, some GB, whose models are run

PYTHON ?= python3
TORCH_INDEX ?=
TESTS ?= tests
PYTEST_ARGS ?= -n 2
PEERS ?=
BENCH_ARGS ?=
SECONDS ?= 60
FUZZ ?= pickle torch_pickle zip safetensors gguf scan torch_zip torch_legacy torch_tar torchscript torch_export \
  torch_package plain_pickle npy npz onnx

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -qq --constraint constraints.txt $(addprefix --extra-index-url ,$(TORCH_INDEX))
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
WHEEL := dist/modelinspect-$(VERSION)-py3-none-any.whl
PACKAGE := $(shell find src -name __pycache__ -prune -o -print) pyproject.toml README.md LICENSE
SILERO := .cache/weights/silero_vad_16k.safetensors
LPIPS := .cache/weights/alex.pth

# The transplant's benchmark compares with other packages, which are kept apart from ours.
BENCH_VENV := .venv-bench
BENCH_BIN := $(BENCH_VENV)/bin
BENCH_INSTALL := $(BENCH_BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt \
  $(addprefix --extra-index-url ,$(TORCH_INDEX))
PEERS_INSTALLED := $(BENCH_VENV)/.peers$(addprefix -,$(PEERS))

# Each step leaves an empty file in .venv and is taken again when what it depends on changes.
MADE := $(VENV)/.made
BUILDER := $(VENV)/.builder
RUNTIME := $(VENV)/.runtime
INSTALLED := $(VENV)/.installed
TEST_TOOLS := $(VENV)/.test-tools
LINT_TOOLS := $(VENV)/.lint-tools
FUZZ_TOOLS := $(VENV)/.fuzz-tools

# The tests are of the installed wheel, whatever the shell points Python to.
unexport PYTHONPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench bench-transplant fuzz wheel clean weights

run = echo "\$$ modelinspect $(1)"; $(BIN)/modelinspect $(1)

help:
	@echo "make demo   install into .venv and show the main commands"
	@echo "make test   run the tests against the built wheel"
	@echo "make lint   ruff, mypy --strict, import-linter"
	@echo "make bench  measure against the budgets, as ratios to peers in one run"
	@echo "make bench-transplant  count the tensors matched in pairs of real models, by us and by others"
	@echo "make fuzz   feed the parsers with what coverage suggests: SECONDS each (60), FUZZ=\"zip gguf\" for some of them"
	@echo "make wheel  build $(WHEEL)"
	@echo "make clean  remove .venv, .cache, dist and caches"

demo: $(INSTALLED) weights
	@echo; echo "==> a definition: the number of its parameters"
	@$(call run,count models/regression.py)
	@echo; echo "==> the same: its parameters by name"
	@$(call run,params models/regression.py)
	@echo; echo "==> tied weights, a frozen layer, buffers, and a tensor that was never registered"
	@$(call run,params models/tied.py)
	@echo; echo "==> 70 billion parameters: nothing is allocated"
	@$(call run,count models/giant.py)
	@echo; echo "==> gradients: thirty sigmoid layers, on which of them do they vanish?"
	@$(call run,grads models/sigmoid_stack.py --by module)
	@echo; echo "==> the regression network fitted to its data, with the norms of every 25th step"
	@mkdir -p .cache/demo
	@$(call run,grads models/regression.py --data models/regression.csv --epochs 500 --lr 0.01 --every 25 \
	  --save .cache/demo/fitted.safetensors)
	@echo; echo "==> the same weights in its twin, which has other names: both are run to prove it"
	@$(call run,transplant .cache/demo/fitted.safetensors models/regression_named.py \
	  --source-definition models/regression.py --format table -o .cache/demo/twin.safetensors)
	@echo; echo "==> a transformer encoder as one author writes it, for the class of another: what goes where"
	@$(call run,transplant models/encoder_a.py models/encoder_b.py)
	@[ ! -e $(SILERO) ] || { \
	  echo; echo "==> a checkpoint: real weights, read without torch"; \
	  $(call run,count $(SILERO)); $(call run,params $(SILERO)); }
	@[ ! -e $(LPIPS) ] || { \
	  echo; echo "==> a file that torch.save wrote before 1.6, read without running its pickle"; \
	  $(call run,params $(LPIPS)); \
	  echo; echo "==> what it is, where its bytes went, and what would run if it were loaded"; \
	  $(call run,info $(LPIPS)); $(call run,bytes $(LPIPS)); $(call run,scan $(LPIPS)); }
	@echo
	@echo "Yours now: $(BIN)/modelinspect count TARGET, $(BIN)/modelinspect params TARGET, ... grads TARGET, ... transplant SRC DST."

test: $(TEST_TOOLS) $(INSTALLED)
	@echo "==> tests of the installed wheel"
	@$(BIN)/python -m pytest $(PYTEST_ARGS) $(TESTS)

lint: $(LINT_TOOLS)
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "==> mypy --strict"
	@$(BIN)/mypy
	@echo "==> import-linter"
	@PYTHONPATH=src PYTHONDONTWRITEBYTECODE=1 $(BIN)/lint-imports --no-logo

bench: $(TEST_TOOLS) $(INSTALLED)
	@$(BIN)/python -m benchmarks

bench-transplant: $(PEERS_INSTALLED)
	@$(BENCH_BIN)/python -m benchmarks.transplant $(BENCH_ARGS)

# Stops at the first input that raises, hangs or grows; it is then a file under .cache/fuzz/TARGET.
fuzz: $(FUZZ_TOOLS)
	@for target in $(FUZZ); do \
	  echo "==> $$target, $(SECONDS) s"; \
	  $(BIN)/python tests/fuzz/fuzz.py $$target --seconds $(SECONDS) || exit 1; \
	done

wheel: $(WHEEL)

clean:
	rm -rf .venv .venv-bench .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@echo "==> creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(BUILDER): $(MADE) constraints.txt
	@echo "==> downloading hatchling, which builds the wheel"
	@$(INSTALL) hatchling
	@touch $@

$(WHEEL): $(PACKAGE) | $(BUILDER)
	@echo "==> building $@"
	@rm -f dist/modelinspect-*.whl
	@$(PIP) wheel -qq --no-deps --no-build-isolation --wheel-dir dist .
	@touch $@

$(RUNTIME): $(MADE) pyproject.toml constraints.txt | $(WHEEL)
	@echo "==> downloading what modelinspect needs: torch, numpy, rich, typer (200 MB with a CPU build of torch;"
	@echo "    some GB with a CUDA build, which PyPI has for Linux: make TORCH_INDEX=URL picks another, see Makefile)"
	@$(INSTALL) $(WHEEL)
	@touch $@

$(INSTALLED): $(WHEEL) $(RUNTIME)
	@echo "==> installing $(WHEEL)"
	@$(PIP) install -qq --no-deps --force-reinstall $(WHEEL)
	@touch $@

$(TEST_TOOLS): $(RUNTIME) pyproject.toml constraints.txt
	@echo "==> downloading what the tests need: pytest, hypothesis, safetensors, transformers, lightning, matplotlib"
	@$(INSTALL) "$(WHEEL)[test]"
	@touch $@

$(BENCH_BIN)/python:
	@echo "==> creating .venv-bench"
	@$(PYTHON) -m venv $(BENCH_VENV)

# Without PEERS=all, names and shapes do: neither torch nor the libraries are needed.
$(BENCH_VENV)/.peers: $(WHEEL) | $(BENCH_BIN)/python
	@echo "==> downloading numpy and weightbridge"
	@$(BENCH_INSTALL) numpy weightbridge==0.0.4
	@$(BENCH_INSTALL) --no-deps --force-reinstall $(WHEEL)
	@touch $@

$(BENCH_VENV)/.peers-all: $(BENCH_VENV)/.peers benchmarks/pairs/requirements.txt
	@echo "==> downloading the libraries of the pairs: transformers, timm, torchvision, diffusers and others"
	@$(BENCH_INSTALL) $(WHEEL) -r benchmarks/pairs/requirements.txt
	@touch $@

$(FUZZ_TOOLS): $(TEST_TOOLS)
	@echo "==> downloading atheris, which fuzzes"
	@$(INSTALL) "$(WHEEL)[fuzz]"
	@touch $@

# mypy reads torch's types, so the checks need what the package needs.
$(LINT_TOOLS): $(TEST_TOOLS)
	@echo "==> downloading what the checks need: ruff, mypy, import-linter"
	@$(INSTALL) "$(WHEEL)[lint]"
	@touch $@

# Real weights that packages ship. Without a network the demo goes on without them.
weights: $(MADE)
	$(call fetch,silero-vad==6.2.3,silero_vad/data/silero_vad_16k.safetensors,$(SILERO),11 MB)
	$(call fetch,lpips==0.1.4,lpips/weights/v0.0/alex.pth,$(LPIPS),54 kB)

fetch = @[ -e $(3) ] || { \
  echo "==> downloading $(1) ($(4)): unpacked for the weights in it, not installed"; \
  mkdir -p $(dir $(3)); \
  folder=$$($(BIN)/python tests/support/shipped.py $(1)) && cp "$$folder/$(2)" $(3) || \
  echo "    note: it did not come; the demo goes on without it"; }
