#!/usr/bin/env bash
# Measures what UGround's layer policy buys on the miniature and writes a page with plots.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    cat <<'HELP'
Usage: ./scripts/miniature/ablation.sh [ARGUMENT OF miniature.ablation...]

Writes the miniature's data sets, then trains and audits UGround with and without its policy, five seeds in turn.
Finished runs are kept in runs/ablation: start it again to go on. The page, runs/ablation/page.md, is written after every
run. docs/policy_study.md was made in the same way; its results are in docs/reports/policy_study.

  ./scripts/miniature/ablation.sh --dry_run                                what would run, and about how long
  ./scripts/miniature/ablation.sh --bases none=DIR,all=DIR,last=DIR        on several bases, which
                                           MAPS=none (or last) ./scripts/miniature/pretrain.sh makes
  ./scripts/miniature/ablation.sh --quick                                  three rows, one seed
  ./scripts/miniature/ablation.sh --rows mode1,mode3_expected --seeds 7    some rows, another seed
  .venv/bin/python -m miniature.ablation --help                            all arguments and rows

  DATA     images to train on      (default dataset/miniature_pretrain)
  HELD_OUT images to score on      (default dataset/miniature_all)
  BASE     base models             (default miniature/weights)
HELP
    exit 0
fi

DATA="${DATA:-dataset/miniature_pretrain}"
HELD_OUT="${HELD_OUT:-dataset/miniature_all}"
BASE="${BASE:-miniature/weights}"

# Small matrices on few cores: two runs of one thread each beat one run of two threads.
jobs=$(($(nproc) > 1 ? 2 : 1))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

./build.sh --dev
.venv/bin/python -m miniature.data --out "$DATA" --seed 1 --scale 5
.venv/bin/python -m miniature.data --out "$HELD_OUT" --scale 0.75
.venv/bin/python -m miniature.ablation --dataset_dir "$DATA" --held_out "$HELD_OUT" --base "$BASE" \
    --jobs "$jobs" "$@"
