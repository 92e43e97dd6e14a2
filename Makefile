# One command does everything it needs: the first call makes .venv and installs into it, later calls reuse it.
#
# Variables, all optional:
#   PYTHON=python3.12        the Python to build .venv with (else the first of 3.11, 3.12, 3.13, 3.10 that runs)
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu   where torch alone comes from, for instance a small CPU build;
#                            by default pip takes torch, like all the rest, from wherever this machine's pip looks
#   WORKERS=2                how many tests run side by side
#   PYTEST="-k clip -x"      more arguments for pytest

.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_COLAB := build/colab/.ready
# Twice quiet: errors only. pip warns about every index that lacks a package.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
TORCH_INDEX ?=
WORKERS ?= 2
PYTEST ?=
NOTEBOOKS ?= $(sort $(wildcard notebooks/*.ipynb))
APP ?=
# For the GPU runner: an environment that leaves the torch of the machine alone, and is made once.
GPU_PYTHON ?= build/gpu-env/bin/python
# What touches widgets or a kernel, and the notebooks that show the panel.
COLAB_TESTS := $(addprefix tests/test_,colab.py app.py quickstart.py ui_parts.py ui_form.py ui_outlook.py ui_results.py ui_run.py ui_panel.py)
OUT := outputs

.PHONY: help demo test test-long test-browser test-fuzz test-colab lint workflows check notebooks app docs wheel clean
.PHONY: gpu-install gpu-look gpu-notebooks gpu-compare gpu-summary

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s%s\n", $$1, $$2 }'

demo: $(READY) ## from a photo to a clip: run the quickstart notebook on the built-in model, say where things are
	@$(BIN)/svdkit demo

test: $(READY) ## run the test suite, but for what test-long, test-browser, test-fuzz and test-colab run
	@mkdir -p build
	$(BIN)/python -m pytest -m "not long and not browser" -n $(WORKERS) --dist worksteal --junitxml build/tests.xml $(PYTEST)

lint: $(READY) workflows ## ruff, mypy, and the checkers of workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Syntax and expressions, security, schema, and the Dockerfile; all offline.
workflows: $(READY)
	$(BIN)/actionlint
	$(BIN)/zizmor --offline --quiet .github
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions .github/actions/*/action.yml
	$(BIN)/hadolint Dockerfile

check: lint ## lint, types, import direction, notebooks, and the tests that need no model (about a minute)
	$(BIN)/python -m pytest -q -m "not model and not slow and not browser" $(PYTEST)

notebooks: $(READY) ## run every notebook through papermill; the executed ones go to outputs/notebooks/
	@mkdir -p $(OUT)/notebooks
	@set -e; for notebook in $(NOTEBOOKS); do \
		echo "$$notebook -> $(OUT)/notebooks/$${notebook##*/}"; \
		$(BIN)/papermill --no-progress-bar --kernel python3 --cwd $(OUT)/notebooks \
			$$notebook $(OUT)/notebooks/$${notebook##*/}; \
	done

app: $(READY) ## show the panel as a web page, on the built-in model where there is no GPU (APP="--port 8000" for options)
	$(BIN)/svdkit app $(APP)

test-long: $(READY) ## the tests that take a minute or more
	@mkdir -p build
	$(BIN)/python -m pytest -m "long and not browser" -n $(WORKERS) --dist worksteal --junitxml build/long.xml $(PYTEST)

# One at a time: a browser, a server and a kernel are enough for two cores.
test-browser: $(READY) ## the report, the player and the panel in a browser (needs chromium)
	@mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser --junitxml build/browser.xml $(PYTEST)

test-fuzz: $(READY) ## every night: 20,000 odd values, files and commands, new ones each time (make test has 2,000)
	SVDKIT_FUZZ=10 HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/test_*fuzz.py $(PYTEST)

test-colab: $(READY_COLAB) ## test the panel and its notebooks with Colab's widgets: ipywidgets 7.7.1, ipykernel 6.17
	@mkdir -p build
	SVDKIT_COLAB=1 build/colab/bin/python -m pytest -n $(WORKERS) --dist loadfile --junitxml build/colab.xml $(COLAB_TESTS) $(PYTEST)
	$(BIN)/python .ci/check_ran.py build/colab.xml $(COLAB_TESTS)

# What .github/actions/gpu does on a GPU runner, and you can do on a rented machine; docs/ci.md names the variables.
gpu-install:
	@$(GPU_PYTHON) -c 'import svdkit, torch' 2>/dev/null || { set -e; \
		mkdir -p build && python3 -m venv --system-site-packages build/gpu-env; \
		$(if $(TORCH_INDEX),$(GPU_PYTHON) -m pip -qq install --index-url $(TORCH_INDEX) torch;) \
		python3 -m pip list --format freeze 2>/dev/null | grep -iE '^(torch|torchvision|torchaudio|numpy)==' > build/keep.txt || true; \
		$(GPU_PYTHON) -m pip --disable-pip-version-check -qq install -c build/keep.txt -e .; }

gpu-look gpu-notebooks gpu-compare gpu-summary:
	@$(GPU_PYTHON) .ci/gpu.py $(@:gpu-%=%)

docs: $(READY) ## build the documentation site into build/docs; notebooks that were run (make notebooks) come with results
	@$(BIN)/python -c 'import furo, myst_nb' 2>/dev/null || $(PIP) install -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -q -W -E -b html docs build/docs
	@test "$$(du -sm build/docs | cut -f1)" -le 25 || { echo 'build/docs is larger than 25 MB' >&2; exit 1; }

wheel: $(READY) ## build the wheel, and make a clip with it in an environment that has nothing of the checkout
	@rm -rf build/wheel dist
	$(BIN)/python -m build --wheel --outdir dist
	@test "$$(stat -c %s dist/*.whl)" -le 26214400 || { echo 'the wheel is larger than 25 MB' >&2; exit 1; }
	@$(BIN)/python -m venv build/wheel
	@printf '%s\n' "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		> "$$(build/wheel/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_venv.pth"
	build/wheel/bin/python -m pip --disable-pip-version-check -qq install --no-deps dist/*.whl
	cd build/wheel && bin/svdkit animate rocket --num-inference-steps 2 --output clip.mp4 --overwrite

clean: ## remove what was made here, but keep .venv
	rm -rf build dist $(OUT) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Each is tried: a version manager's stand-in only prints an error, and Debian's Python may come without venv.
$(BIN)/python:
	@for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.10 python3); do \
		if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
			echo "making $(VENV) with $$python"; exec $$python -m venv $(VENV); fi; \
	done; \
	echo 'svdkit needs Python 3.10 or newer with venv (Debian, Ubuntu: apt install python3-venv), or make PYTHON=...' >&2; \
	exit 1

# torch comes first and by itself, so that nothing installed after it can bring another build along.
$(READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing torch and svdkit into $(VENV): minutes, the first time'
	@echo '(on Linux pip may take the CUDA build of torch, gigabytes; the small one: make TORCH_INDEX=https://download.pytorch.org/whl/cpu)'
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) install -c constraints.txt -e '.[dev,ray,app]'
	@touch $@

# Colab's versions in an environment of their own; the rest (torch, diffusers, pytest) comes from .venv, which stands
# behind them on the path, so that nothing large is installed twice.
$(READY_COLAB): $(READY) Makefile
	@rm -rf build/colab && mkdir -p build
	@$(BIN)/python -m venv build/colab
	@build/colab/bin/python -m pip --disable-pip-version-check -qq install ipywidgets==7.7.1 ipykernel==6.17.1 ipython==7.34.0
	@printf '%s\n' "$(CURDIR)" "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		> "$$(build/colab/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_venv.pth"
	@touch $@
