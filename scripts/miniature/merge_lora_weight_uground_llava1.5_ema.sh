#!/usr/bin/env bash
# Merges UGround on the miniature with an EMA baseline into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge miniature/uground_llava1.5_ema "$@"
