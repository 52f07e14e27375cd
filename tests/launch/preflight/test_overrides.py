"""A bad command line is answered with all its problems, not with the first."""

from __future__ import annotations

from composing import our_loader

from dcp_runner.launch.preflight.overrides import examine

ONE = {
    "trainer.max_step=3": "no key `trainer.max_step`; did you mean `trainer.max_steps`?",
    "max_steps=3": "did you mean `trainer.max_steps`?",
    "paralel=ddp": "did you mean `parallel`?",
    "parallel=dp": "did you mean `ddp`?",
    "trainer.max_steps=many": "trainer.max_steps=many: Value 'many' of type 'str' could not be converted to Integer",
    "checkpoint.keep.mode=least": "Invalid value 'least', expected one of [min, max]",
    "resume=null": "field 'resume' is not Optional",
    "save_steps=5": "here it is `checkpoint.every_steps`",
    "trainer.save_total_limit=5": "here it is `checkpoint.keep.last`",
    "ckpt_path=x": "here it is `resume`",
    "~trainer.nothing": "does not exist",
    "+seed=3": "An item is already at 'seed'",
    "name=a=b": "not of the form key=value",
    "just_a_word": "not of the form key=value",
    "seed=1,2": "several values are a sweep, which needs -m",
}


def test_every_bad_override_is_told_and_the_rest_is_composed() -> None:
    good = ["optim=sgd", "optim.momentum=0.5", "seed=4"]
    with our_loader() as loader:
        found = examine(loader, "config", [*ONE, *good], multirun=False)
    for line, told in ONE.items():
        (text,) = [text for text in found.problems if text.startswith(f"{line}: ")]
        assert told in text
        assert "\n" not in text
    assert len(found.problems) == len(ONE)
    assert (found.jobs[0].optim.momentum, found.jobs[0].seed) == (0.5, 4)


def test_a_good_command_line_has_no_problems() -> None:
    with our_loader() as loader:
        found = examine(loader, "config", ["parallel=ddp", "optim=sgd", "optim.momentum=0.5"], multirun=False)
    assert (found.problems, len(found.jobs)) == ([], 1)


def test_every_value_of_a_sweep_is_composed_once() -> None:
    with our_loader() as loader:
        found = examine(loader, "config", ["seed=1,2", "optim=adamw,sgd", "optim.lr=0.1"], multirun=True)
        assert [(cfg.seed, "betas" in cfg.optim) for cfg in found.jobs] == [(1, True), (1, False), (2, True)]
        found = examine(loader, "config", ["seed=1,x"], multirun=True)
    assert [text.split(":")[0] for text in found.problems] == ["seed=x"]


def test_a_bad_override_beside_several_values_of_another_is_explained_by_itself() -> None:
    with our_loader() as loader:
        found = examine(loader, "config", ["optim.lr=0.1,0.2", "trainer.max_stps=3", "seed=1,2"], multirun=True)
    assert found.problems == ["trainer.max_stps=3: no key `trainer.max_stps`; did you mean `trainer.max_steps`?"]
    assert [(cfg.optim.lr, cfg.seed) for cfg in found.jobs] == [(0.1, 1), (0.1, 2), (0.2, 1)]


def test_a_glob_is_composed_and_one_without_a_match_is_a_problem() -> None:
    with our_loader() as loader:
        found = examine(loader, "config", ["parallel=glob(dp_*)"], multirun=True)
        assert found.problems == [] and len(found.jobs) == 3
        found = examine(loader, "config", ["parallel=glob(zzz*)", "seed=1,2"], multirun=True)
        (problem,) = found.problems
        assert problem.startswith("parallel=glob(zzz*): matches no option of parallel; expected: accelerate, ddp")
        assert [cfg.seed for cfg in found.jobs] == [1, 2]
        found = examine(loader, "config", ["parallel=glob(dp_*)", "trainer.max_stps=3"], multirun=True)
    assert found.problems == ["trainer.max_stps=3: no key `trainer.max_stps`; did you mean `trainer.max_steps`?"]
