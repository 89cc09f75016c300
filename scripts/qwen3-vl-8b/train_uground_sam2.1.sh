#!/usr/bin/env bash
# Trains UGround on Qwen3-VL-8B with SAM 2.1 with an EMA baseline on ReasonSeg's 239 images.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train qwen3-vl-8b/uground_sam2.1 "$@"
