#!/usr/bin/env bash
# Merges UGround on LLaVA-1.6-7B with an EMA baseline into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge 7b_refer_seg/uground_llava1.6_ema "$@"
