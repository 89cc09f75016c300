#!/usr/bin/env bash
# Talks with UGround on Qwen2.5-VL-7B about images, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
chat qwen2.5-vl-7b/uground "$@"
