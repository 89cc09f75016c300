#!/usr/bin/env bash
# Merges UGround on Qwen2.5-VL-7B into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge qwen2.5-vl-7b/uground "$@"
