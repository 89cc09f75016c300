#!/usr/bin/env bash
# Shows the curves of UGround on LLaVA-1.6-7B with an EMA baseline in a browser on this machine.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
curves 7b_reason_seg_val/uground_llava1.6_ema "$@"
