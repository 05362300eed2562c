# What a newcomer needs is `make demo` and `make test`; CONTRIBUTING.md explains the others.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
SITE = $(VENV)/lib/$(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])')/site-packages

export ANSIBLE_HOME := $(CURDIR)/.ansible

.PHONY: help venv demo drill bench-placement demo-down lab-up lab-down test test-long lint unit molecule lab-test release-venvs release-check lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

venv: $(VENV)/.complete ## .venv with Ansible, the tools, and this tree as the collection aivailable.sdai

# An environment of what a lock names. Its stamp is written last: an interrupted installation is thrown away, not mended.
define install # DIRECTORY LOCK DURATION
	@tests/tools/system-packages venv
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "Making $(1) ($(3) the first time)"
	@$(PYTHON) -m venv --clear $(1)
	@$(1)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $(2) 2> >(grep -v 'is ignored: it is neither a file nor a directory' >&2)
endef

$(VENV)/.complete: requirements-dev.lock tests/tools/system-packages
	$(call install,$(VENV),$<,about two minutes)
	@mkdir -p $(SITE)/ansible_collections/aivailable $(VENV)/tree/ansible_collections/aivailable
	@ln -sfn $(CURDIR) $(SITE)/ansible_collections/aivailable/sdai
	@ln -sfn $(CURDIR) $(VENV)/tree/ansible_collections/aivailable/sdai
	@touch $@

.cache/%/.complete: tests/release/%.lock tests/tools/system-packages
	$(call install,.cache/$*,$<,about a minute)
	@touch $@

lock: ## pin the newest versions of requirements-dev.in and tests/release/*.in
	@for list in requirements-dev tests/release/oldest tests/release/importer; do \
		echo "Locking $$list.in"; \
		$(PYTHON) -m venv --clear .cache/lock && .cache/lock/bin/pip install --quiet -r $$list.in \
			&& .cache/lock/bin/pip freeze > $$list.lock || exit 1; \
	done

demo: venv ## the lab up, the site deployed on it, one chat answered, the URLs
	@tests/tools/system-packages lab
	@$(BIN)/python tests/lab/demo.py

drill: venv ## failures one by one on the lab under load, and what its users saw of each (a quarter of an hour)
	@tests/tools/system-packages lab
	@$(BIN)/python tests/lab/drill.py

demo-down: lab-down ## remove the lab; caches stay

lab-up: venv ## the lab's containers only
	@tests/tools/system-packages lab
	@$(BIN)/python tests/lab/lab.py up

lab-down:
	@if [ -x $(BIN)/python ]; then $(BIN)/python tests/lab/lab.py down; else echo "Nothing to remove: there is no $(VENV)"; fi

test: venv ## everything that CI runs
	@tests/tools/system-packages lab
	@$(BIN)/python tests/tools/run_tests.py

test-long: venv ## the same tests with full counts, and the lab tests that take minutes each
	@tests/tools/system-packages lab
	@HYPOTHESIS_PROFILE=long $(BIN)/python tests/tools/run_tests.py

lint: venv ## ruff, mypy, ansible-lint, documentation
	@$(BIN)/python tests/tools/run_tests.py lint

unit: venv ## the tests that need no lab
	@tests/tools/system-packages lab
	@$(BIN)/python tests/tools/run_tests.py unit

molecule: venv ## the molecule scenarios
	@tests/tools/system-packages lab
	@$(BIN)/python tests/tools/run_tests.py molecule

lab-test: venv ## the tests that run against the lab
	@tests/tools/system-packages lab
	@$(BIN)/python tests/tools/run_tests.py lab

# What a release is checked with: the oldest ansible-core, and Galaxy's importer; each holds no more than its lock.
release-venvs: .cache/oldest/.complete .cache/importer/.complete

release-check: venv ## what a published collection is checked by: ansible-test sanity, Galaxy's importer, the tarball
	@HYPOTHESIS_PROFILE=long $(BIN)/python tests/tools/run_tests.py release

bench-placement: venv ## the planner against other policies on generated fleets, as tables (25 minutes; ARGS="--help")
	@$(BIN)/python tests/bench/placement.py $(ARGS)

clean: lab-down ## remove everything that make made
	rm -rf .venv .cache .lab .ansible .mypy_cache .ruff_cache .hypothesis
