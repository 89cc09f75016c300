#!/usr/bin/env bash
# Shows what each layer of UGround on the miniature with an EMA baseline looks at, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model_page miniature/uground_llava1.5_ema layers "$@"
