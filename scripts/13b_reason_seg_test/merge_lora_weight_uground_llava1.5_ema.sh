#!/usr/bin/env bash
# Merges UGround on LLaVA-1.5-13B with an EMA baseline into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge 13b_reason_seg_test/uground_llava1.5_ema "$@"
