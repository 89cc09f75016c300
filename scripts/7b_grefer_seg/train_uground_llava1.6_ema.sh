#!/usr/bin/env bash
# Trains UGround on LLaVA-1.6-7B with an EMA baseline on refcocog, refzom and grefcoco.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train 7b_grefer_seg/uground_llava1.6_ema "$@"
