#!/usr/bin/env bash
# Merges UGround on LLaVA-1.5-7B with a critic baseline into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge 7b_reason_seg_val/uground_llava1.5_critic "$@"
