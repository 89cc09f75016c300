#!/usr/bin/env bash
# Measures what UGround's layer policy brings on the miniature and writes docs/ablation.md with its plots.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/ablation.sh [ARGUMENT OF miniature.ablation...]

Writes the miniature's data set, then trains and scores LISA, READ and UGround with and without its policy, three seeds
each, at most three hours on two idle cores. Finished runs are kept in runs/ablation: call it again to resume.
The page is written after every run.

  ./scripts/miniature/ablation.sh --quick                                  four rows, one seed, a few minutes
  ./scripts/miniature/ablation.sh --rows mode1,mode3_expected --seeds 7    some rows, another seed
  .venv/bin/python -m miniature.ablation --help                            all arguments and rows

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

./build.sh --dev
.venv/bin/python -m miniature.data --out "$DATA" --scale 0.75 --sets ade20k,refcoco,grefcoco,reason_seg,llava
.venv/bin/python -m miniature.ablation --dataset_dir "$DATA" --base "$BASE" --processes "$processes" "$@"
