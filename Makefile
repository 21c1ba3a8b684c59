# Thin on purpose: every line can be run by hand. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test unit lint bench zoo schemas clean

# The environment: pinned versions, this package on top, editable.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "deploykit needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: .venv/ready
	$(BIN)/deploykit export models/fashion_resnet --output build/fashion_resnet --overwrite
	$(BIN)/deploykit bench build/fashion_resnet models/fashion_resnet --batch 1 --threads 1 --min-count 600
	$(BIN)/deploykit compress prune models/fashion_resnet --latency 0.7x --batch 1 --threads 1 --train 'fashion-mnist:train[:7000]' --epochs 4 --check --output build/fashion_resnet-pruned --overwrite
	$(BIN)/deploykit export build/fashion_resnet-pruned --output build/fashion_resnet-small --overwrite
	$(BIN)/deploykit quantize build/fashion_resnet-small --calibrate 'fashion-mnist:train[:512]' --val fashion-mnist:val --max-drop 0.5 --batch 1 --threads 1 --output build/fashion_resnet-int8 --overwrite
	$(BIN)/deploykit bench build/fashion_resnet build/fashion_resnet-small build/fashion_resnet-int8 --batch 1 --threads 1 --min-count 600

# A process per core, eight at most: each needs 1 GB. Each keeps to one thread; a file's tests stay
# together, as they share what they made, and go by name: compress, with the dearest, comes early.
# One process, to debug: .venv/bin/python -m pytest PATH
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 \
	--dist loadfile --no-loadscope-reorder

test: .venv/ready
	$(PYTEST)

unit: .venv/ready
	$(PYTEST) -m "not slow"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready
	$(BIN)/python -m benchmarks

# torchvision, timm and Torch-Pruning, for the benchmarks and twelve tests; in a folder of their own.
zoo: .venv/ready
	$(BIN)/python -c "from benchmarks.packages import install; install()"

# After a change of a record: its JSON Schema in deploykit/core/schemas.
schemas: .venv/ready
	$(BIN)/python -m deploykit.cli.schemas

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
