#!/usr/bin/env bash
# Environment, lint, format and the test suite.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/test.sh [PYTEST ARGUMENT...]

Builds the environment (./build.sh --dev), then runs ruff check, ruff format --check and pytest on two
processes. Arguments go to pytest:
  ./scripts/test.sh -k parity     only the tests whose name matches
  ./scripts/test.sh -m slow       the slow tests, which are otherwise left out
  ./scripts/test.sh -n 0 -x       one process, stop at the first failure
HELP
    exit 0
fi

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # two processes on two cores: more threads only wait for each other
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"   # no test downloads anything

./build.sh --dev
echo "[test] ruff check"
.venv/bin/python -m ruff check .
echo "[test] ruff format --check"
.venv/bin/python -m ruff format --check .
echo "[test] pytest"
.venv/bin/python -m pytest -n 2 "$@"
