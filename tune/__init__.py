"""The platform around the model: search space, fold jobs on Ray Tune, MLflow records, the `hilbert` command."""
