"""`python -m crossbreed.cli`."""

from crossbreed.cli import main

if __name__ == "__main__":
    main()
