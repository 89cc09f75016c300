#!/usr/bin/env bash
# Scores SESAME on LLaVA-1.6-13B. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate 13b/sesame "$@"
