"""What training draws: families draw a `Sample`, `batching.collate.Collator` makes a `Batch` of samples.

Reading annotation files is `groundscore.annotations`'; nothing here knows the network.
"""
