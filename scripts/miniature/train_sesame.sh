#!/usr/bin/env bash
# Trains SESAME on the miniature on referring expressions and reasoning questions.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train miniature/sesame "$@"
