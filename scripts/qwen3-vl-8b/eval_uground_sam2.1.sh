#!/usr/bin/env bash
# Scores UGround on Qwen3-VL-8B with SAM 2.1. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate qwen3-vl-8b/uground_sam2.1 "$@"
