"""What the network gets: batches on their device, augmented and normalised."""
