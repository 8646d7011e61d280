# One command each, all from a bare clone: `make run` runs the course, `make test` tests it. `make help` lists the rest.
PROFILE ?= quick
JOBS    ?= 1
NB      ?=
TORCH   ?= auto
SANDBOX ?= bwrap
# The versions that the tests are pinned to; TORCH=cpu asks for the small build without CUDA first.
TORCH_PINS := torch==2.14.1 torchvision==0.29.1
CPU_INDEX  := https://download.pytorch.org/whl/cpu

PYTHON_OK := import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PY ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c '$(PYTHON_OK)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
RUN := $(BIN)/python -m
export TORCH TORCH_PINS

.DEFAULT_GOAL := run
.PHONY: run test lab notes grade release slides site bench fmt check colab lock clean help

# Made anew where the folder was moved since: an environment knows its place.
ifneq ($(shell cat .venv/.ok 2>/dev/null),$(CURDIR))
.PHONY: .venv/.ok
endif
.venv/.ok: pyproject.toml requirements.lock
	@[ -n "$(PY)" ] && $(PY) -c '$(PYTHON_OK)' || { echo "The course needs Python 3.11, 3.12 or 3.13, and found $$(python3 --version 2>&1). Install one, or name it: make PY=/path/to/python3.12"; exit 1; }
	@$(PY) -m tools.make setup

run: .venv/.ok            ## run every notebook: NB=seminars/seminar1 for one, PROFILE=quick|long|full, JOBS=n
	@$(RUN) tools.run_notebooks $(NB) --profile $(PROFILE) --jobs $(JOBS)

test: .venv/.ok           ## set up and pass every test
	@$(RUN) tools.make test

check: .venv/.ok          ## what `make fmt` would change, as errors
	@$(RUN) tools.make check

fmt: .venv/.ok            ## format code, notebooks, pages; renew all that is generated
	@$(RUN) ruff check -q --fix; $(RUN) ruff format -q
	@$(RUN) tools.page && $(RUN) tools.normalise
# begin instructors
	@$(RUN) grading student homeworks/homework*
# end instructors
	@$(RUN) tools.sheet

lab: .venv/.ok            ## present a copy of the first seminar as slides: NB=seminars/seminar3 for another
	@$(RUN) tools.live $(NB)

notes: .venv/.ok          ## the notes of every seminar to read while presenting, in build/notes
	@$(RUN) tools.notes $(NB)

# begin instructors
grade: .venv/.ok          ## HW=homeworks/homework1 SUBMISSIONS=folder OUT=folder, JOBS=n, DASK=address, LATE=file, ALSO="gradescope junit"
	@[ -n "$(HW)" ] && [ -n "$(SUBMISSIONS)" ] && [ -n "$(OUT)" ] || { echo "usage: make grade HW=homeworks/homework1 SUBMISSIONS=folder OUT=folder"; exit 1; }
	@$(RUN) grading grade "$(HW)" "$(SUBMISSIONS)" --out "$(OUT)" --jobs $(JOBS) --sandbox $(SANDBOX) \
		$(if $(DASK),--dask "$(DASK)") $(if $(LATE),--late "$(LATE)") $(if $(ALSO),--also $(ALSO))

release: .venv/.ok        ## OUT=folder: write the students' repository; SOLUTIONS="hw1 hw2" adds solutions
	@[ -n "$(OUT)" ] || { echo "usage: make release OUT=folder [SOLUTIONS=\"hw1\"]"; exit 1; }
	@$(RUN) tools.release "$(OUT)" $(if $(SOLUTIONS),--solutions $(SOLUTIONS))

# end instructors
slides: .venv/.ok         ## draw the figures and compile every deck
	@$(RUN) tools.slides

site: .venv/.ok           ## write the course as a web site to build/site, offline
	@$(RUN) tools.site

bench: .venv/.ok          ## measure speed, as ratios
	@$(BIN)/python tests/bench_train.py
# begin instructors
	@$(RUN) tests.bench_grade
	@$(RUN) grading.mutation_score homeworks/homework*
# end instructors

colab: .venv/.ok          ## build Colab's environment and run the notebooks in it
	@$(RUN) pytest -m colab tests/test_colab.py

lock:                     ## renew requirements.lock (needs uv)
	@uv export -q --all-groups --no-hashes --no-annotate --no-header --no-emit-project --prune torch --prune torchvision > build.lock
	@{ echo "# Exact versions that the tests run with, torch and torchvision apart (they have their own step in the Makefile)."; \
	   echo "# Written by: make lock"; cat build.lock; } > requirements.lock; rm -f build.lock uv.lock

clean:                    ## remove what the commands above made
	@rm -rf .venv build

help:
	@awk -F ':[^#]*## *' '/^[a-z]+:.*##/ { printf "%-10s%s\n", $$1, $$2 }' Makefile
