#!/usr/bin/env bash
# Trains UGround on LLaVA-1.6-13B with a critic baseline on ReasonSeg's 239 images.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 13b_reason_seg_val/uground_llava1.6_critic "$@"
