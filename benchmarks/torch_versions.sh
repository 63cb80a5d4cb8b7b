#!/usr/bin/env bash
# The layers' tests with other versions of torch, each in an environment of its own under build/:
#
#   benchmarks/torch_versions.sh 2.6.0 2.15.0 | tee benchmarks/results/torch-versions.txt
#
# Needs 6 GB of disk for each, as the wheels of the registry bring CUDA. Everything else is of the versions in constraints.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
others=$(mktemp)
grep -v -E '^(torch|triton|sympy|setuptools|nvidia)' constraints.txt > "$others"
for version in "$@"; do
    place=build/torch-$version
    [ -x "$place/bin/python" ] || python3 -m venv "$place"
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$others" "torch==$version" \
        pytest pytest-timeout hypothesis networkx numpy scipy safetensors pydantic "typer>=0.29" "rich>=13.7" pyyaml tabulate jinja2 \
        optuna filelock 2> /dev/null || { echo "torch $version cannot be installed"; continue; }
    "$place/bin/python" -c 'import sys, torch; print("torch", torch.__version__, "Python", sys.version.split()[0])'
    PYTHONPATH=. OMP_NUM_THREADS=1 "$place/bin/python" -m pytest -q -p no:cacheprovider tests/layers \
        tests/training/proxy/test_packs.py 2>&1 | grep -E '^(FAILED|ERROR)|passed|failed|error'
done
