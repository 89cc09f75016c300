#!/usr/bin/env bash
# Scores UGround on LLaVA-1.5-13B with a critic baseline. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate 13b_reason_seg_val/uground_llava1.5_critic "$@"
