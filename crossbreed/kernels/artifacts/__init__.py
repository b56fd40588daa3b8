"""What a run prepares before it merges, in files with a content hash, by which a recipe names it.

`files` knows the files and the hash, `input_grams` and `walk_statistics` what is in them, `binding` which of them a
recipe names.
"""
