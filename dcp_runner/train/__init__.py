"""The training loop and its parts. They know no sharing pattern and no file of a checkpoint."""
