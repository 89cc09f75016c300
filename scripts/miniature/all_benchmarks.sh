#!/usr/bin/env bash
# Scores the six miniature systems on every benchmark and writes a page, as docs/benchmarks_miniature.md is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/all_benchmarks.sh [ARGUMENT OF miniature.benchmarks...]

Writes the miniature's data set in the layouts of all benchmarks, then scores the systems that
scripts/miniature/six_systems.sh trained on the data of their papers (runs/six_systems) on all of them. Start it again
to go on. The page is runs/six_systems/benchmarks.md, or --out.

  ./scripts/miniature/all_benchmarks.sh --limit 2                  a look at it
  ./scripts/miniature/all_benchmarks.sh --systems LISA,UGround     some of them
  .venv/bin/python -m miniature.benchmarks --help                  all arguments

  DATA     data set                (default dataset/miniature_all)
HELP
    exit 0
fi

DATA="${DATA:-dataset/miniature_all}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}"

./build.sh
.venv/bin/python -m miniature.data --out "$DATA" --scale 0.75
.venv/bin/python -m miniature.benchmarks --dataset_dir "$DATA" "$@"
