"""The loss that an optimizer by gradient goes down: of the merge at a point of the space, on search items."""
