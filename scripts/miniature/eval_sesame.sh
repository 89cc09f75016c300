#!/usr/bin/env bash
# Scores SESAME on the miniature. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate miniature/sesame "$@"
