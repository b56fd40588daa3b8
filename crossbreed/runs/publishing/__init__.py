"""Publishing: writing recipes as checkpoint folders."""
