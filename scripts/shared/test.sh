#!/usr/bin/env bash
# Scores a model on questions about things that are not there: does it see, does it say so, does it segment?
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
with_data eval.py --answer generated --val_dataset "fprefcoco|val||fprefcoco+|val||fprefcocog|val" "$@"
