#!/usr/bin/env bash
# Shows the curves of UGround on the miniature with an EMA baseline in a browser on this machine.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
curves miniature/uground_llava1.5_ema "$@"
