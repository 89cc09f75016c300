#!/usr/bin/env bash
# Shows what each layer of UGround on LLaVA-1.5-7B with an EMA baseline looks at, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model_page 7b_grefer_seg/uground_llava1.5_ema layers "$@"
