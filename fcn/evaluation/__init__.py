"""How good the predictions of a split are: counts that are summed over batches and ranks, and metrics from them."""
