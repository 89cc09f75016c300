#!/usr/bin/env bash
# Trains the six systems on the miniature with one budget and writes their scores to docs/six_systems.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/six_systems.sh [ARGUMENT OF miniature.compare...]

Writes the miniature's data set, then trains and scores LISA, READ, PixelLM, GSVA, SESAME and UGround, one after the
other, a few minutes each. What is done already is kept in runs/six_systems: start it again to go on.

  ./scripts/miniature/six_systems.sh --steps 50                    a shorter budget
  ./scripts/miniature/six_systems.sh --systems LISA,UGround        some of them
  .venv/bin/python -m miniature.compare --help                     all arguments

  DATA     data set                (default dataset/miniature)
  BASE     base models             (default miniature/weights)
HELP
    exit 0
fi

DATA="${DATA:-dataset/miniature}"
BASE="${BASE:-miniature/weights}"

# Small matrices on few cores: two processes of one thread each beat one process of two threads.
processes=$(($(nproc) > 1 ? 2 : 1))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

./build.sh
.venv/bin/python -m miniature.data --out "$DATA" --scale 0.75 --sets ade20k,refcoco,grefcoco,reason_seg,llava
.venv/bin/python -m miniature.compare --dataset_dir "$DATA" --base "$BASE" --processes "$processes" "$@"
