# make run   set up, build for this machine, validate; prints where the report is
# make test  set up, run every test this machine can run
# make lab   set up, open JupyterLab on the notebooks
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# The machines without a GPU build these: Hopper (which can also run the stand-ins) and the 12.x family.
TEST_TARGETS := 9.0a,12.0f

# $(call timed,NAME,COMMAND): run COMMAND and say how long it took.
define timed
	@printf '\n== %s\n' '$(1)'; start=$$(date +%s); $(2); code=$$?; \
	printf '== %s: %s s, exit code %s\n' '$(1)' "$$(( $$(date +%s) - start ))" "$$code"; exit $$code
endef

.PHONY: run test lab setup check-system clean

run: setup
	$(BIN)/kernelpkg build
	$(BIN)/kernelpkg validate --out runs/latest

test: setup
	$(call timed,lint,$(BIN)/ruff check . && $(BIN)/ruff format --check .)
	$(call timed,build,$(BIN)/kernelpkg build --set test --arch $(TEST_TARGETS) --with-native)
	$(call timed,tests,$(BIN)/python -m pytest -q --durations=10 --ignore=tests/notebooks tests)
	$(call timed,notebooks,$(BIN)/python -m pytest -q --durations=10 tests/notebooks)

lab: setup
	$(BIN)/kernelpkg lab

setup: check-system $(VENV)/.installed

check-system:
	@command -v g++ >/dev/null || { echo "g++ is missing. On Debian or Ubuntu: sudo apt install g++"; exit 2; }
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11 or newer"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: name a newer one with make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "python3-venv is missing. On Debian or Ubuntu: sudo apt install python3-venv"; exit 2; }

# The build backend first, then the package without build isolation: an isolated build would fetch a second torch.
$(VENV)/.installed: pyproject.toml constraints.txt
	@printf '\n== setup\n'; start=$$(date +%s); set -e; \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(PIP) install -q -c constraints.txt scikit-build-core cmake ninja; \
	$(PIP) install -q -c constraints.txt --no-build-isolation -e '.[notebooks,cuda,test]'; \
	touch $@; printf '== setup: %s s\n' "$$(( $$(date +%s) - start ))"

clean:
	rm -rf build runs
