"""Several processes: how they are launched, agree, and share a model."""
