#!/usr/bin/env bash
# Scores UGround on InternVL3-8B. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate internvl3-8b/uground "$@"
