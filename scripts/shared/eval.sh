#!/usr/bin/env bash
# Scores a model. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
with_data eval.py --log_base_dir "$RUNS" "$@"
