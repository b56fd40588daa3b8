"""Programs that run in processes beside ours: what a model has written may bring one to a halt, and no more."""
