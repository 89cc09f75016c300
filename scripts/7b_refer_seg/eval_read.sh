#!/usr/bin/env bash
# Scores READ on LLaVA-1.6-7B. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate 7b/read "$@"
