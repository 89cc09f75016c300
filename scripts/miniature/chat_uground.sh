#!/usr/bin/env bash
# Talks with UGround on the miniature with an EMA baseline about images, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
chat miniature/uground_llava1.5_ema "$@"
