# `make demo` and `make test` need only python3 (3.11 or later): they create .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: env demo pretrain-demo test test-full test-hf check clean

env: $(STAMP)

# The stamp skips the installation unless pyproject.toml, the constraints, setup.py or the kernel changed.
$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard csrc/*)
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "nip needs Python 3.11 or later")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[attention,fast,train,data,report,peers,cluster,finetune,pretrain,postgresql,dev]'
	touch $@

# A small end-to-end run: score, generate, train, test, report. Short expressions of at most 62 tokens in 16 blocks of 4, so
# that a few minutes on two cores are enough to learn something. A stopped run resumes.
DEMO := runs/demo
DEMO_RUN := --task listops --data $(DEMO)/data --seed 42 --seq-len 64 --block-size 4 --max-steps 2500 --warmup 0.1 \
	--learning-rate 1e-3 --eval-every 250
demo: env
	$(BIN)/nip compare --seq-len 64 --block-size 4
	$(BIN)/nip data listops --output-dir $(DEMO)/data --min-length 16 --max-length 63 --dev 1000 --test 4000
	$(BIN)/nip lra --attention hypercube $(DEMO_RUN) --output-dir $(DEMO)/hypercube
	$(BIN)/nip lra --attention local $(DEMO_RUN) --output-dir $(DEMO)/local
	$(BIN)/nip report $(DEMO)/hypercube $(DEMO)/local --output $(DEMO)/report.html

# A small pretraining run, about 20 minutes on two cores: text from packages (apt install bible-kjv-text dict-gcide; the
# Brown corpus if installed), a tokenizer trained on it, a tiny BERT over a hypercube of 512 tokens. A stopped run resumes.
PRETRAIN_DEMO := runs/pretrain-demo
pretrain-demo: env
	$(BIN)/nip data texts --output-dir $(PRETRAIN_DEMO)/texts
	$(BIN)/nip data corpus --from $(PRETRAIN_DEMO)/texts --output-dir $(PRETRAIN_DEMO)/shards --train-tokenizer 8192 --max-seq-length 512
	$(BIN)/nip pretrain --dataset $(PRETRAIN_DEMO)/shards --output-dir $(PRETRAIN_DEMO)/hypercube --size tiny --attention hypercube \
		--architecture roberta-prelayernorm --batch-size 8 --learning-rate 2e-3 --dropout 0 --attention-dropout 0 \
		--hours 0.27 --eval-every 200 --eval-samples 256 --checkpoint-minutes 2
	$(BIN)/nip report $(PRETRAIN_DEMO)/hypercube --output $(PRETRAIN_DEMO)/report.html

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each process takes full test files, so that the fixtures of a file are created once.
JOBS ?= 2
test: check
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile

# DeepSpeed imports torch during its installation and compiles extensions on first use.
DEEPSPEED := deepspeed==0.19.8
test-full: check
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt '$(DEEPSPEED)' ninja
	$(BIN)/pytest -m ""

# Hugging Face models with the newest transformers, and with the minor version before it, in an environment layered on .venv
# that contains nothing else.
HF_BEFORE := 5.22
HF_TESTS := $(wildcard tests/models/test_huggingface*.py) tests/models/test_positions.py tests/finetuning
test-hf: env
	$(BIN)/pytest -m "" $(HF_TESTS)
	test -x .venv-hf/bin/python || $(PYTHON) -m venv .venv-hf
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> "$$(.venv-hf/bin/python -c 'import site; print(site.getsitepackages()[0])')/nip.pth"
	.venv-hf/bin/python -m pip install --quiet 'transformers==$(HF_BEFORE).*'
	.venv-hf/bin/python -m pytest -m "" $(HF_TESTS)

clean:
	rm -rf .venv .venv-hf build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
