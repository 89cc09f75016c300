#!/usr/bin/env bash
# Trains READ on the miniature on referring expressions and reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train miniature/read "$@"
