#!/usr/bin/env bash
# Scores UGround on Qwen2.5-VL-7B. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate qwen2.5-vl-7b/uground "$@"
