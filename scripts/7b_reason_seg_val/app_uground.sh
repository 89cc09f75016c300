#!/usr/bin/env bash
# Talks with UGround on LLaVA-1.5-7B with an EMA baseline about images, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model_page 7b_reason_seg_val/uground_llava1.5_ema ground "$@"
