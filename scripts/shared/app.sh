#!/usr/bin/env bash
# Talks with a model about pictures, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
page --tab ground "$@"
