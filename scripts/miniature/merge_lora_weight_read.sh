#!/usr/bin/env bash
# Merges READ on the miniature into one self-contained model, and checks it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
merge miniature/read "$@"
