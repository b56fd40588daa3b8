"""A run's trials in the files of other tools: CSV, Parquet, Optuna. They are written from the journal alone."""
