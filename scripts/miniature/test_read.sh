#!/usr/bin/env bash
# Scores READ on the miniature on false premises: does it see, say and segment?
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
evaluate_false_premises miniature/read "$@"
