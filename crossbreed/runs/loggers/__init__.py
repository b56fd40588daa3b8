"""Live logging of a run to MLflow, Weights & Biases or TensorBoard, through their own packages: `log:` in a spec."""
