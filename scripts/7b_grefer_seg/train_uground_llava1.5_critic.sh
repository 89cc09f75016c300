#!/usr/bin/env bash
# Trains UGround on LLaVA-1.5-7B with a critic baseline on all six referring sets.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 7b_grefer_seg/uground_llava1.5_critic "$@"
