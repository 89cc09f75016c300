#!/usr/bin/env bash
# Shows the curves of a run, or of all runs, in a browser on this machine.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
tensorboard "$@"
