"""Teachers: experts whose own answers candidates are compared with, instead of right ones."""
