# Every target sets up what it needs: python3 (3.11 or newer) and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What depends on the interpreter most: TLS, servers, identities, gRPC, the HTTP engine, xDS, the control plane.
QUICK := tests/test_architecture.py tests/test_bootstrap.py tests/controlplane tests/identities tests/inbound tests/xds \
	tests/grpc/test_channels.py tests/grpc/test_mutual_tls.py tests/grpc/test_process.py tests/grpc/test_servers.py \
	tests/http/test_engine.py tests/http/test_tls_and_http2.py tests/server/test_authorities.py \
	tests/server/test_exhaustion.py tests/server/test_log_lines.py tests/server/test_malformed.py \
	tests/server/test_mutual_tls_matrix.py tests/server/test_peer_trust.py \
	tests/server/test_serve.py tests/server/test_start.py tests/server/test_trust.py tests/server/test_untold.py
VERSIONS := 3.11 3.12 3.13

.PHONY: test test-others quick peers httpx-suite httpx2 interop record-istiod record-analyzers demo bench soak lint types format docs docs-serve links licences clean

# By files, so that each worker starts what a file shares once; tests/conftest.py says which come first.
test: lint types  ## everything that must hold: style, types, tests
	"$(BIN)/python" -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder

quick: $(STAMP)  ## a selection of the tests; PYTHON and VENV say on which interpreter
	"$(BIN)/python" --version
	"$(BIN)/python" -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -p no:cacheprovider $(QUICK)

test-others: $(STAMP)  ## that selection on each other version of Python that is here
	@own=$$("$(BIN)/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	for version in $(VERSIONS); do \
		if [ "$$version" = "$$own" ]; then continue; fi; \
		python=$$(.ci/find-python "$$version") || { echo "skipped: Python $$version is not on this machine"; continue; }; \
		$(MAKE) --no-print-directory quick PYTHON="$$python" VENV=".venv-$$version" || exit 1; \
	done

# Where neither is there and nobody may install them, the tests say that they are skipped.
peers: $(STAMP)  ## what a real browser and a real Prometheus judge; Debian's packages are installed where that is allowed
	@.ci/install-peers
	"$(BIN)/python" -m pytest -q -n 2 --dist loadfile tests/admin/test_browser.py \
		tests/telemetry/test_metrics_page.py tests/telemetry/test_dashboards.py

# What the suites want beside their library, in a place of its own: the library would offer it to servers.
SUITE_EXTRAS := brotli chardet click pygments rich socksio zstandard

httpx-suite: $(STAMP)  ## the tests that httpx or httpx2 publish, over the mesh: SUITE=/path/to/httpx/tests
	@test -d "$(SUITE)" || { echo "say where the tests are: make httpx-suite SUITE=/path/to/httpx/tests"; exit 2; }
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --target "$(VENV)/suite" --upgrade $(SUITE_EXTRAS)
	PYTHONPATH="$(abspath $(VENV))/suite" "$(BIN)/python" -m tests.drop_in "$(SUITE)"

httpx2: $(STAMP)  ## what the tests prove of httpx, with httpx2 in its place
	PYTHONPATH=. "$(BIN)/python" -m pytest -p tests.as_httpx2 -q -n 3 --dist loadfile --no-loadscope-reorder tests/http

interop: $(STAMP)  ## folders against the real istiod, built from its source; needs Go, minutes at the first time
	"$(BIN)/python" -m tests.interop.istio compare --generated 600
	"$(BIN)/python" -m pytest -q -m interop -o addopts="--strict-markers" tests/interop

record-istiod: $(STAMP)  ## istiod's answers to the corpus, as data that the tests compare with; needs Go
	"$(BIN)/python" -m tests.interop.istio record

record-analyzers: $(STAMP)  ## what Istio's own analyzers find in the inputs that Istio publishes; needs Go
	"$(BIN)/python" -m tests.analysis.istio_corpus

demo: $(STAMP)  ## bookinfo on loopback: services, mesh, live table; under a minute
	"$(BIN)/python" -m examples.bookinfo

.PHONY: stories
stories: $(STAMP)  ## five users' first hour, each from the built wheel in a fresh virtual environment; needs the network
	"$(BIN)/python" -m tests.stories

bench: $(STAMP)  ## ratios against bare httpx, aiohttp and Envoy; prints a table, writes JSON
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --target "$(VENV)/bench" --upgrade aiohttp
	PYTHONPATH="$(abspath $(VENV))/bench" "$(BIN)/python" -m tests.benchmarks

soak: $(STAMP)  ## long runs under faults, and examples that the tests do not have; not part of the tests
	"$(BIN)/python" -m pytest -q -m soak -o addopts="--strict-markers" --timeout=900
	"$(BIN)/python" -m pytest -q -m hypothesis -o addopts="--strict-markers" --hypothesis-profile=explore --timeout=900

docs: $(STAMP)  ## the documentation site, into site/
	NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" build

docs-serve: $(STAMP)  ## the same at http://127.0.0.1:8000, as it is written
	NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" serve

links: $(STAMP)  ## whether addresses on the pages that lead outside lead anywhere; needs the network
	"$(BIN)/python" -m tests.docs.links

licences: $(STAMP)  ## docs/licences.md, made of what is installed
	"$(BIN)/python" -m tests.docs.licences

lint: $(STAMP)
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .

types: $(STAMP)
	"$(BIN)/mypy"

format: $(STAMP)
	"$(BIN)/ruff" format .
	"$(BIN)/ruff" check --fix .

$(STAMP): pyproject.toml
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@# xds-protos brings an old copy of these modules, and pip writes it over them.
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps \
		"opentelemetry-proto==$$("$(BIN)/python" -c 'from importlib.metadata import version; print(version("opentelemetry-proto"))')"
	touch "$(STAMP)"

clean:
	rm -rf "$(VENV)" .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
