#!/usr/bin/env bash
# Trains UGround on LLaVA-1.5-7B with a critic baseline on referring expressions and ReasonSeg.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 7b_reason_seg_val/uground_llava1.5_critic "$@"
