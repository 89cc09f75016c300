#!/usr/bin/env bash
# Trains six systems on their own data and on everything, and writes a page with their scores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/six_systems.sh [ARGUMENT OF miniature.compare...]

Writes the miniature's data sets, then trains and audits LISA, READ, PixelLM, GSVA, SESAME and UGround, each on the data
of its paper and on all eight families, three seeds in turn. Finished runs are kept in runs/six_systems: start it again
to go on. The page, runs/six_systems/page.md, is written after every run. docs/six_systems.md was made in the same way;
its results are in docs/reports/six_systems, which may be copied to runs/six_systems to add to them.
docs/six_systems_qwen3_vl.md was made with BASE=miniature/weights_qwen3_vl and --runs runs/six_systems_qwen3_vl.

  ./scripts/miniature/six_systems.sh --dry_run                     what would run, and about how long
  ./scripts/miniature/six_systems.sh --systems LISA,UGround        some of them
  ./scripts/miniature/six_systems.sh --diets full --seeds 7        another seed, of all on everything
  .venv/bin/python -m miniature.compare --help                     all arguments

  DATA     images to train on      (default dataset/miniature_pretrain)
  HELD_OUT images to score on      (default dataset/miniature_all)
  BASE     base models             (default miniature/weights; or miniature/weights_qwen3_vl)
HELP
    exit 0
fi

DATA="${DATA:-dataset/miniature_pretrain}"
HELD_OUT="${HELD_OUT:-dataset/miniature_all}"
BASE="${BASE:-miniature/weights}"

# Small matrices on few cores: two runs of one thread each beat one run of two threads.
jobs=$(($(nproc) > 1 ? 2 : 1))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

./build.sh
.venv/bin/python -m miniature.data --out "$DATA" --seed 1 --scale 5
.venv/bin/python -m miniature.data --out "$HELD_OUT" --scale 0.75
.venv/bin/python -m miniature.compare --dataset_dir "$DATA" --held_out "$HELD_OUT" --base "$BASE" \
    --jobs "$jobs" "$@"
