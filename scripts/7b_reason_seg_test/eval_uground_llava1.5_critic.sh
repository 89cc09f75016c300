#!/usr/bin/env bash
# Scores UGround on LLaVA-1.5-7B with a critic baseline. Without --val_dataset a menu of the splits opens.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate 7b_reason_seg_test/uground_llava1.5_critic "$@"
