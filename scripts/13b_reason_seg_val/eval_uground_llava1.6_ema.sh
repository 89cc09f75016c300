#!/usr/bin/env bash
# Scores UGround on LLaVA-1.6-13B with an EMA baseline. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate 13b_reason_seg_val/uground_llava1.6_ema "$@"
