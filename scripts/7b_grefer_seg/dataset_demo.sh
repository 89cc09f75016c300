#!/usr/bin/env bash
# Shows the training data in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
data_page 7b_grefer_seg/uground_llava1.5_ema "$@"
