#!/usr/bin/env bash
# Scores UGround on LLaVA-1.5-7B with an EMA baseline on false premises: does it see, say and segment?
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate_false_premises 7b_refer_seg/uground_llava1.5_ema "$@"
