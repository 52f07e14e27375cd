"""Somebody else's Hydra app that trains with dcp_runner. Its config, model and data are its own.

    python examples/hydra_app/app.py                              two ranks, or one for each GPU
    python examples/hydra_app/app.py parallel=single optim.lr=0.1
    python examples/hydra_app/app.py -m optim.lr=0.1,0.01
    torchrun --nproc-per-node 4 examples/hydra_app/app.py

With a plain `@hydra.main` it works as well. `hydra_main` adds two things: under torchrun and srun only one rank
composes, and a mistaken command line is answered with all its mistakes before anything is made (that is `check`).
"""

from omegaconf import DictConfig

from dcp_runner.app import check, hydra_main, run


@hydra_main(config_path="conf", config_name="config", check=check)
def main(cfg: DictConfig) -> None:
    print(f"{cfg.points} points, optimizer {cfg.optim._target_}")  # whatever the app wants to do with its configuration
    run(cfg)


if __name__ == "__main__":
    main()
