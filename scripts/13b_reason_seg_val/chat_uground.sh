#!/usr/bin/env bash
# Talks with UGround on LLaVA-1.5-13B with an EMA baseline about images, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
chat 13b_reason_seg_val/uground_llava1.5_ema "$@"
