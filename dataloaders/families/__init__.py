"""One file per data-set type: annotations -> Sample."""
