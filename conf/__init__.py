"""The config groups; found by Hydra as `pkg://dcp_runner.conf`."""
