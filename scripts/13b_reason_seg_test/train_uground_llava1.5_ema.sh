#!/usr/bin/env bash
# Trains UGround on LLaVA-1.5-13B with an EMA baseline on semantic sets, referring expressions and ReasonSeg.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 13b_reason_seg_test/uground_llava1.5_ema "$@"
