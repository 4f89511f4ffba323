# Two commands do everything: `make reproduce` and `make test`. The work is papermill over the
# notebooks, and the lines below are those you would type (with .venv activated: `papermill ...`).

PYTHON = python3#                a Python 3.11 or later, to create .venv with
BIN = .venv/bin#                 of another environment: make reproduce BIN=$$CONDA_PREFIX/bin
PRESET = miniature#              the numbers of cream/presets/named.py; tiny: only to see everything run
OUT = runs/reproduce#            everything that `make reproduce` writes, but for downloads

SCALED = scaled:yarn:8#          the base scaled as the preset trains it, not tuned
MODELS = original,$(SCALED),$(OUT)/pose,$(OUT)/cream
# The kernels' progress bars, live: papermill's own would count cells.
PAPERMILL = $(BIN)/python -m papermill --no-progress-bar --log-level ERROR --start-timeout 300 --stderr-file /dev/stderr

ENV = $(if $(filter .venv/bin,$(BIN)),.venv/.installed)
CODE = $(ENV) $(shell find cream -name "*.py") $(wildcard data/miniature/*.safetensors)

# Two notebooks at a time, each with half of the cores: a small model does not keep all of them busy.
# On a card they follow each other, for its memory.
JOBS = $(if $(wildcard /dev/nvidia0),1,2)
MAKEFLAGS += --jobs=$(JOBS)
ifeq ($(JOBS),2)
reproduce: export OMP_NUM_THREADS ?= $(shell $(PYTHON) -c "import os; print(max(1, (os.cpu_count() or 1) // 2))")
endif

.PHONY: help env reproduce real figures claims verify grid-data test test-fast lint

help:
	@echo "make reproduce   data, PoSE and CREAM runs, evaluations, figures: into $(OUT)"
	@echo "make test        ruff, every test, the notebooks that are compared with their outputs"
	@echo "make test-fast   what of that takes seconds: no notebooks, no killed and restarted runs"
	@echo "make real        SmolLM2-135M asked for ten sentences in 10,000 tokens (104 MB of downloads)"
	@echo "make figures     draw the committed rows (data/results) into figures/ again"
	@echo "make claims      write REPRODUCTION.md again from the committed rows"
	@echo "make verify      compute a random sample of the committed rows again"
	@echo "make lint        ruff alone"
	@echo "make env         create .venv, which the others do by themselves"
	@echo
	@echo "make reproduce PRESET=tiny OUT=runs/tiny   the same in minutes, to see it run"
	@echo "make env PYTHON=python3.12                 with another Python (3.11 or later)"
	@echo "make reproduce BIN=\$$CONDA_PREFIX/bin       in an environment of your own, such as conda's"

env: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not" \
	"a Python of 3.11 or later, which is needed; name one: make env PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test,evaluation]"
	@# ipykernel's own setting: without it every kernel warns that it talks to localhost in plain text.
	@mkdir -p .venv/etc/ipython
	@echo 'c.IPKernelApp.log_level = "ERROR"' > .venv/etc/ipython/ipython_kernel_config.py
	@touch $@

# Every notebook skips what it finds done, but needs ten seconds to find out, so a `.done` beside
# what it made stands for a run to its end; delete the folder and it is made again. Changed code,
# base or notebook runs it once more, computing only what is missing.
$(OUT)/corpus/.done: notebooks/01_data.ipynb $(CODE)
	@mkdir -p $(@D)
	$(PAPERMILL) $< $(OUT)/01_data.ipynb -p preset $(PRESET) -p out $(OUT)/corpus
	@touch $@

$(OUT)/pose/.done $(OUT)/cream/.done: $(OUT)/%/.done: notebooks/02_train.ipynb $(OUT)/corpus/.done
	@mkdir -p $(@D)
	$(PAPERMILL) $< $(OUT)/02_train-$*.ipynb -p preset $(PRESET) -p method $* \
		-p corpus $(OUT)/corpus -p out $(OUT)/$*
	@touch $@

# The longest first: two at a time then end together.
TASKS = longchat_lines perplexity needle kv_retrieval
TRAINED = $(OUT)/pose/.done $(OUT)/cream/.done
$(OUT)/rows/.longchat_lines.done: notebooks/03_longchat_lines.ipynb $(TRAINED)
	@mkdir -p $(@D)
	$(PAPERMILL) $< $(OUT)/03_longchat_lines.ipynb -p preset $(PRESET) \
		-p models $(MODELS) -p rows $(OUT)/rows/longchat_lines.jsonl
	@touch $@

$(OUT)/rows/.kv_retrieval.done: notebooks/04_lost_in_the_middle.ipynb $(TRAINED)
	@mkdir -p $(@D)
	$(PAPERMILL) $< $(OUT)/04_lost_in_the_middle.ipynb -p preset $(PRESET) \
		-p models $(MODELS) -p rows $(OUT)/rows/kv_retrieval.jsonl
	@touch $@

$(OUT)/rows/.needle.done: notebooks/05_needle.ipynb $(TRAINED)
	@mkdir -p $(@D)
	$(PAPERMILL) $< $(OUT)/05_needle.ipynb -p preset $(PRESET) \
		-p models $(MODELS) -p corpus $(OUT)/corpus -p rows $(OUT)/rows/needle.jsonl
	@touch $@

$(OUT)/rows/.perplexity.done: notebooks/07_perplexity.ipynb $(TRAINED)
	@mkdir -p $(@D)
	$(PAPERMILL) $< $(OUT)/07_perplexity.ipynb -p preset $(PRESET) \
		-p models $(MODELS) -p corpus $(OUT)/corpus -p rows $(OUT)/rows/perplexity.jsonl
	@touch $@

ROWS = $(TASKS:%=$(OUT)/rows/.%.done)
$(OUT)/figures/.done: notebooks/09_figures.ipynb $(ROWS)
	@mkdir -p $(@D)
	$(PAPERMILL) $< $(OUT)/09_figures.ipynb -p rows $(OUT)/rows -p out $(OUT)/figures
	@touch $@

reproduce: $(OUT)/figures/.done
	@$(BIN)/python -m cream.reproduction.report $(OUT)/rows --figures $(OUT)/figures

SECONDARY = retrieval seeds parts margin
figures: $(ENV)
	@mkdir -p runs
	$(PAPERMILL) notebooks/09_figures.ipynb runs/09_figures.ipynb
	$(if $(wildcard data/smollm2/*.parquet),$(BIN)/python -m cream.reproduction.smollm2 data/smollm2)
	$(if $(wildcard data/methods/*.parquet),$(BIN)/python -m cream.reproduction.miniature.methods \
		data/methods)
	$(if $(wildcard data/margin/*.parquet),$(BIN)/python -m cream.reproduction.miniature.margin \
		data/margin)
	$(if $(wildcard data/sharper/*.parquet),$(BIN)/python -m cream.reproduction.miniature.sharper \
		data/sharper)
	$(if $(wildcard data/smollm2-margin/*.parquet),$(BIN)/python -m \
		cream.reproduction.smollm2.margin data/smollm2-margin)
	$(if $(wildcard data/smollm2-seeds/*.parquet),$(BIN)/python -m \
		cream.reproduction.smollm2.seeds data/smollm2-seeds)
	$(if $(wildcard data/smollm2-parts/*.parquet),$(BIN)/python -m \
		cream.reproduction.smollm2.parts data/smollm2-parts --beside data/smollm2-seeds)
	$(if $(wildcard data/smollm2-retrieval/*.parquet),$(BIN)/python -m \
		cream.reproduction.smollm2.retrieval data/smollm2-retrieval --beside data/smollm2-seeds)
	$(if $(wildcard data/smollm2-search/*.parquet),$(BIN)/python -m \
		cream.reproduction.smollm2.search data/smollm2-search)
	$(if $(wildcard data/smollm2-scale32/scale32.parquet),$(BIN)/python -m \
		cream.reproduction.smollm2.scale32 data/smollm2-scale32)
	$(if $(wildcard $(SECONDARY:%=data/smollm2-%/*.parquet)),$(BIN)/python -m \
		cream.reproduction.smollm2.secondary data)

# A real model of 135 M parameters, asked on this machine; needs downloads of 104 MB.
real: $(ENV)
	$(BIN)/python -m cream.study.real_model

claims: $(ENV)
	$(BIN)/python -m cream.reproduction --out REPRODUCTION.md

verify: $(ENV)
	HF_HUB_DISABLE_PROGRESS_BARS=1 $(BIN)/python -m cream.verify

# What the grid trains on, and what is known of it (data/results/grid_data.json).
grid-data: $(ENV)
	$(BIN)/python -m cream.study prepare
	$(BIN)/python -m cream.study.data_report

lint: $(ENV)
	$(BIN)/python -m ruff check .

# One thread a worker: two workers fill two cores, each with whole files, the longest first. Of
# notebooks, only what is the same on every machine is compared with its committed outputs; all of
# them run in tests/notebooks.
COMPARED = 00_method 09_figures 10_ablations 11_efficiency 13_your_trainer
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
test: lint
	$(PYTEST) --nbval --nbval-current-env $(COMPARED:%=notebooks/%.ipynb) tests

# Without the tests marked slow (a second and more) and the notebooks, so without their plugin.
test-fast: lint
	$(PYTEST) -p no:nbval -m "not slow" tests
