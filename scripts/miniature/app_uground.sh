#!/usr/bin/env bash
# Talks with UGround on the miniature with an EMA baseline about images, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
model_page miniature/uground_llava1.5_ema ground "$@"
