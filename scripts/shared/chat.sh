#!/usr/bin/env bash
# Talks with a model about pictures, in the terminal.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
with_model chat.py "$@"
