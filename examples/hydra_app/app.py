"""A Hydra app of your own that trains with dcp_runner. Its config, model and data are its own.

    python examples/hydra_app/app.py                              two ranks, or one per GPU
    python examples/hydra_app/app.py parallel=single optim.lr=0.1
    python examples/hydra_app/app.py -m optim.lr=0.1,0.01
    torchrun --nproc-per-node 4 examples/hydra_app/app.py

A plain `@hydra.main` works as well. `hydra_main` adds two things: under torchrun and srun only rank 0 composes the
configuration, and a command line with mistakes is answered with a list of all of them before any folder is created
(that is what `check` does).
"""

from omegaconf import DictConfig

from dcp_runner import check, hydra_main, run_experiment


@hydra_main(config_path="conf", config_name="config", check=check)
def main(cfg: DictConfig) -> None:
    print(f"{cfg.points} points, optimizer {cfg.optim._target_}")  # whatever the app does with its own keys
    run_experiment(cfg)


if __name__ == "__main__":
    main()
