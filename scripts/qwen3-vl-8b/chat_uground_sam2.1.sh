#!/usr/bin/env bash
# Talks with UGround on Qwen3-VL-8B with SAM 2.1 about images, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
chat qwen3-vl-8b/uground_sam2.1 "$@"
