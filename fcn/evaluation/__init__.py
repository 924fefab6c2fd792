"""How good predictions of a split are: counts that add up over batches and ranks, and the metrics of them."""
