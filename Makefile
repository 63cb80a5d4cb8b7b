# Two commands, each doing all its own set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test kernels clusters faults package lint docs reports benchmark data clean

demo: .venv/installed
	$(BIN)/einsearch rank specs/demo.yaml --out runs/demo

# One process a core, each on one thread: on two cores this takes half the time of one process on two threads.
test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Triton's kernels by its interpreter, without a GPU; a kernel that is not tested fails. Triton has a folder of its own, as
# its presence changes what torch compiles. Its version stands here, not in constraints.txt, which serves torch for CUDA too:
# that brings the Triton of its own version. The download has 286 MB.
TRITON := triton==3.9.0

kernels: .venv/$(TRITON)
	TRITON_INTERPRET=1 PYTHONPATH=$< $(BIN)/python -m pytest -rs tests/layers/test_kernels_interpreted.py

.venv/$(TRITON): .venv/installed-dev
	rm -rf $@
	$(INSTALL) --no-deps --target $@ $(TRITON)
	touch $@

# Ray and Slurm's launcher, with two nodes on loopback.
clusters: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/clusters --numprocesses 2 --dist loadfile

# Processes killed, disks filled, clocks set: no run may be lost or done twice.
faults: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults -rs tests/faults --numprocesses 2 --dist loadfile

# Wheel and sdist as a user gets them, in environments of all Pythons that are here.
package: .venv/installed-dev
	$(BIN)/python -m pytest -m package -rs tests/packaging

# Prose: misspelt words everywhere, and on the pages for readers the words of .plain-words.txt and the rules of
# proselint; .proselintrc.json leaves out those that take code, tables and 'multiply-adds' for prose. The log,
# docs/design/log, is history.
PAGES := $(wildcard docs/*.md docs/*/*.md)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check einsearch_cli tests benchmarks examples docs README.md
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell README.md CHANGELOG.md Makefile docs specs einsearch_cli tests benchmarks examples
	$(BIN)/codespell --dictionary .plain-words.txt README.md CHANGELOG.md $(PAGES)
	$(BIN)/proselint check README.md CHANGELOG.md $(PAGES)

# The site, in build/docs: the README, all pages and the docstrings. A broken link is an error. Needs no network.
docs: .venv/installed-docs
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . build/docs
	@echo "file://$(CURDIR)/build/docs/README.html"

# The pages of the stored studies in examples/, made again without training, and pictures of them by Chromium.
# The README's picture has the first sentences, the ranking and the loss curve, without the sections between them.
SHORT = main>section:not(\#section-result,\#section-ranking,\#section-scaling),p:nth-of-type(n+4),.caption,.meanings{display:none}svg.plot{max-width:820px}
PICTURE = chromium --headless --no-sandbox --disable-gpu --hide-scrollbars

reports: .venv/installed
	for run in demo search moe structured_ffn; do $(BIN)/einsearch report examples/$$run > /dev/null || exit; done
	mkdir -p build
	sed 's|</head>|<style>$(SHORT)</style></head>|' examples/demo/report.html > build/picture.html
	$(PICTURE) --window-size=1280,1680 --screenshot=docs/images/report.png build/picture.html
	$(PICTURE) --window-size=1280,1820 --screenshot=examples/structured_ffn/report.png examples/structured_ffn/report.html

benchmark: .venv/installed
	$(BIN)/einsearch bench --overwrite --out benchmarks/results/layers.json
	$(BIN)/python benchmarks/model_speed.py --out benchmarks/results/models.json
	$(BIN)/python benchmarks/decoding.py --out benchmarks/results/decoding.json
	$(BIN)/python benchmarks/moe_speed.py --quick
	$(BIN)/python benchmarks/narrow.py --out benchmarks/results/narrow.json
	$(BIN)/python benchmarks/routes.py --out benchmarks/results/routes.json
	$(BIN)/python benchmarks/space_search.py --quick
	$(BIN)/python -m benchmarks.intervals --studies 100
	OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/rank.py --out benchmarks/results/rank.json

# English and photographs for specs/paper: a dictionary of 40 MB and twelve pictures of nature, from two packages of Debian.
data: data/gcide.txt data/photos

data/gcide.txt:
	mkdir -p data/packages
	cd data/packages && apt-get download dict-gcide && dpkg -x dict-gcide_*.deb .
	zcat data/packages/usr/share/dictd/gcide.dict.dz | iconv -c -f utf-8 -t utf-8 > $@.part
	mv $@.part $@

data/photos:
	mkdir -p data/packages
	cd data/packages && apt-get download mate-backgrounds && dpkg -x mate-backgrounds_*.deb .
	mv data/packages/usr/share/backgrounds/mate/nature $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --editable '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(INSTALL) --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
