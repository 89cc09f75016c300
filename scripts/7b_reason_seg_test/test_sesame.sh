#!/usr/bin/env bash
# Scores SESAME on LLaVA-1.6-7B on false premises: does it see, say and segment?
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate_false_premises 7b/sesame "$@"
