#!/usr/bin/env bash
# Scores a model on questions about things that are not there: does it see, does it say so, does it segment?
every_set=1 # of the miniature: its usual pictures have no such questions
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
with_data eval.py --log_base_dir "$RUNS" --answer generated --val_dataset "fprefcoco|val||fprefcoco+|val||fprefcocog|val" "$@"
