#!/usr/bin/env bash
# Merges UGround on Qwen3-VL-8B with SAM 2.1 into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge qwen3-vl-8b/uground_sam2.1 "$@"
