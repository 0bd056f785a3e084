"""From a dataset's rows to the batches that a model's forward takes."""
