"""From annotation files to batches: data sets draw a `Sample`, `collate.Collator` makes a `Batch` of them."""
