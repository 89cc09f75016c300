#!/usr/bin/env bash
# Shows the training data in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
data_page 13b_reason_seg_val/uground_llava1.5_ema "$@"
