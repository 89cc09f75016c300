#!/usr/bin/env bash
# Trains UGround on Qwen2.5-VL-7B with an EMA baseline on ReasonSeg's 239 images.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train qwen2.5-vl-7b/uground "$@"
