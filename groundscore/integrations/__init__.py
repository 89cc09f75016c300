"""Ground truth and scores inside the evaluation harnesses of others, one folder each."""
