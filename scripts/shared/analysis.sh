#!/usr/bin/env bash
# Shows what each layer of a model looks at, in a browser.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
page --tab layers "$@"
