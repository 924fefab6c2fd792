"""Early stopping: which trials train on, decided from their reports alone."""
