"""The training loop and what it is made of. It knows no sharing pattern and no file of a checkpoint."""
