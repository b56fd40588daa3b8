"""A first spec, guessed from models and files of items: `crossbreed init`."""
