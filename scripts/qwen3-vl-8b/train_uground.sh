#!/usr/bin/env bash
# Trains UGround on Qwen3-VL-8B with an EMA baseline on ReasonSeg's 239 images.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train qwen3-vl-8b/uground "$@"
