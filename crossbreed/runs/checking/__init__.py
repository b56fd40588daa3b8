"""What `crossbreed check` finds out beyond mistakes: what is asked of the model, and what a run will cost."""
