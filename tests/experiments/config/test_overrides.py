"""config/overrides.py reports typos, wrong types and choices that do not exist, all of a command line at once."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.config.choices import bad_choices, options
from experiments.config.hydra_internals import hydra_in
from experiments.config.overrides import check_overrides, checked, parse_overrides, unknown_key
from experiments.errors import UserError
from experiments.project import CONFIG_DIR

TYPOS = [
    ("rollout.temprature=0.6", "rollout.temprature", "rollout.temperature"),
    ("rolout.n=8", "rolout.n", "rollout.n"),
    ("kl.coeff=0.1", "kl.coeff", "kl.coef"),
    ("sed=3", "sed", "seed"),
    ("algoritm=ppo", "algoritm", "algorithm"),
    ("critic.optim.rl=1e-6", "critic.optim.rl", "critic.optim.lr"),
    ("actor_rolout_ref.actor.optim.lr=1e-6", "actor_rolout_ref.actor.optim.lr", "actor_rollout_ref.actor.optim.lr"),
    ("trainer.total_steps=5", "trainer.total_steps", "trainer.total_training_steps"),
    ("train_batch_size=64", "train_batch_size", "data.train_batch_size"),
    ("~trainer.test_frek", "trainer.test_frek", "trainer.test_freq"),
]


def test_a_key_like_no_other_is_answered_with_where_to_look() -> None:
    assert unknown_key("qqqq.zzzz", ["seed", "rollout.n"]) == (
        "qqqq.zzzz must be a key of the config, but there is none of that name; "
        "see: python -m experiments.run show=config"
    )


WRONG_TYPES = [
    ("rollout.n=five", "rollout.n must be a number, but is 'five'; its default is 5"),
    ("rollout.temperature=[1,2]", "rollout.temperature must be a number, but is [1, 2]; its default is 1.0"),
    ("seed=true", "seed must be a number, but is True; its default is 1"),
    ("trainer.val_before_train=1", "trainer.val_before_train must be true or false, but is 1; its default is True"),
    (
        "trainer.val_before_train=yes",
        "trainer.val_before_train must be true or false, but is 'yes'; its default is True",
    ),
    ("trainer.logger=3", "trainer.logger must be a list, but is 3; its default is ['file', 'wandb']"),
    ("data.truncation=[a]", "data.truncation must be a text, but is ['a']; its default is 'error'"),
    ("trainer.v1=sync", "trainer.v1 must be a mapping, but is 'sync'; its default is {"),
    (
        "actor_rollout_ref.actor.use_kl_loss=0.1",
        "actor_rollout_ref.actor.use_kl_loss must be true or false, but is 0.1",
    ),
    ('rollout.n="5"', "rollout.n must be a number, but is '5'; its default is 5"),
]


IN_SWEEPS = [
    (
        "rollout.temperature=0.6,hot,[1]",
        "rollout.temperature must be a number, but is 'hot'",
        "rollout.temperature must be a number, but is [1]",
    ),
    ('data.seed=2,"x"', "data.seed must be a number, but is 'x'"),
    ("algorithm=grpo,ppo",),
]


@pytest.fixture(scope="module")
def problems() -> list[str]:
    """The problems of all the overrides above on one command line."""
    with pytest.raises(UserError) as refused:
        check_overrides([case[0] for case in (*TYPOS, *WRONG_TYPES, *IN_SWEEPS)])
    return list(refused.value.problems)


def test_all_problems_are_told_at_once(problems: list[str]) -> None:
    assert len(problems) == len(TYPOS) + len(WRONG_TYPES) + 3


@pytest.mark.parametrize("number", range(len(TYPOS)))
def test_a_typo_is_named_with_the_nearest_keys(problems: list[str], number: int) -> None:
    _, key, nearest = TYPOS[number]
    assert problems[number].startswith(f"{key} must be a key of the config, but there is none of that name; ")
    suggested = problems[number].split("did you mean ")[1].rstrip("?").split(" or ")
    assert nearest in suggested and len(suggested) <= 3


@pytest.mark.parametrize("number", range(len(WRONG_TYPES)))
def test_a_wrong_type_is_named_with_the_default(problems: list[str], number: int) -> None:
    assert problems[len(TYPOS) + number].startswith(WRONG_TYPES[number][1])


def test_every_value_of_a_sweep_is_checked(problems: list[str]) -> None:
    wanted = [message for _, *messages in IN_SWEEPS for message in messages]
    assert [problem.split("; ")[0] for problem in problems[len(TYPOS) + len(WRONG_TYPES) :]] == wanted


def test_what_is_right_is_let_through() -> None:
    check_overrides(
        [
            "algorithm=ppo",
            "seed=1,2,3",
            "rollout.temperature=0.6,1,1.2",
            "rollout.n=range(2,8)",
            "kl.coef=0",
            "+trainer.something_new=3",
            "++data.custom=[1,2]",
            "~experiment",
            "trainer.logger=wandb",
            "trainer.experiment_name=a-name",
            "trainer.default_local_dir=/scratch/x y",
            "data.train_files=[/a.parquet,/b.parquet]",
            "data.truncation='left'",
            "data.max_response_length=${data.max_prompt_length}",
            "actor_rollout_ref.actor.use_kl_loss=false",
            "trainer.val_before_train=null",
            "hydra/launcher=local",
            "hydra.sweep.dir=elsewhere",
        ]
    )


EMPTIED = {
    "~temperature": "temperature must be one of its choices, but is deleted (~); ",
    "model=null": "model must be one of its choices, but is null; ",
    "hydra/launcher=null": "hydra/launcher must be one of its choices, but is null; ",
    "~rollout.n": "rollout.n must stay, since something reads it, but is deleted (~); set a value instead",
    "~trainer": "trainer must stay, ",
    "actor_rollout_ref=null": "actor_rollout_ref must be a mapping, but is None; ",
}


@pytest.mark.parametrize("override", EMPTIED)
def test_what_a_run_can_t_do_without_must_not_be_taken_away(override: str) -> None:
    with pytest.raises(UserError) as refused:
        check_overrides([override, "seed=1"])
    (problem,) = refused.value.problems
    assert problem.startswith(EMPTIED[override])


def test_what_is_no_grammar_is_told_with_the_quotes_that_it_needs() -> None:
    with pytest.raises(UserError) as refused:
        check_overrides(["model.path=~/my model", "seed=1", "faster"])
    path, word = refused.value.problems
    quoted = shlex.split(path.split("quote it twice: ")[1])[0]
    assert OverridesParser.create().parse_override(quoted).value() == "~/my model"
    assert word == "an override must be in Hydra's grammar, but is faster; write key=value"


# Choices of groups

GROUPS = [file.relative_to(CONFIG_DIR).with_suffix("").as_posix() for file in CONFIG_DIR.glob("*/**/*.yaml")]


def test_every_choice_that_there_is_is_one() -> None:
    chosen = ["=".join(name.rsplit("/", 1)) for name in GROUPS]
    assert {"algorithm=ppo", "hydra/launcher=slurm"} <= set(chosen)
    with hydra_in(str(CONFIG_DIR)):
        assert bad_choices(parse_overrides([*chosen, "hydra/sweeper=optuna", "model=glob(*)", "kl={coef: 0}"])) == {}


*_FIRST, _LAST = options("algorithm")
NAMES = f"{', '.join(_FIRST)} or {_LAST}"
ALGORITHM = f"algorithm must be {NAMES}, but is 'grop'; did you mean grpo? (the rest is checked with grpo)"
BAD_CHOICES: dict[str, tuple[list[str], list[str] | None]] = {
    "algorithm=grop": ([ALGORITHM], ["algorithm=grpo"]),
    "algorithm=grpo,grop": ([ALGORITHM], ["algorithm=grpo"]),
    "algorithm=ppo,grop": ([ALGORITHM], ["algorithm=ppo,grpo"]),
    "algorithm=ppo,xyz": ([f"algorithm must be {NAMES}, but is 'xyz'; choose one"], ["algorithm=ppo"]),
    "+experiment=[smoke,tinyzero_pp]": (["experiment must be article_grpo, "], ["+experiment=[smoke,tinyzero_ppo]"]),
    "kl=defualt": (["kl must be default, but is 'defualt'; did you mean default?"], ["kl=default"]),
    "kl=0.001": (["kl must be default, but is '0.001'; choose one of them"], None),
    "model=lama,tny": (["model must be llama3.2-1b, ", "model must be llama3.2-1b, "], ["model=tiny"]),
    "hydra/launcher=slrum": (["hydra/launcher must be basic, local, plan, slurm, "], ["hydra/launcher=slurm"]),
    "~model": (["model must be one of its choices, but is deleted (~); "], []),
}


@pytest.mark.parametrize("override", BAD_CHOICES)
def test_a_choice_that_is_none_is_told_with_those_there_are(override: str) -> None:
    problems, instead = BAD_CHOICES[override]
    command = checked([override, "seed=1"])
    assert len(command.problems) == len(problems)
    assert all(said.startswith(begins) for said, begins in zip(command.problems, problems, strict=True))
    assert command.rest == (None if instead is None else [*instead, "seed=1"])


def test_choices_keys_types_and_grammar_are_told_together() -> None:
    """If nobody can guess which file of a group was meant, its keys may be right; if one is near, we know its keys."""
    typed = ["temperature=lienar", "temperature.end=0.5", "temperature.ned=0.5", "model=llama", "model.pth=x"]
    launcher = ["hydra/launcher=slrum", "hydra.launcher.partition=gpu", "hydra.launcher.partitoin=gpu"]
    found = checked([*typed, *launcher, "kl.coef=low", "modl=tiny", "seed=[1"]).problems
    assert [problem.split(" must ")[0] for problem in found] == [
        *("temperature", "temperature.ned", "model", "hydra/launcher", "hydra.launcher.partitoin", "kl.coef", "modl"),
        "an override",
    ]
    assert "did you mean hydra.launcher.partition" in found[4]


@pytest.mark.parametrize(
    "typed", [["rollout.temperature=0.6,", "1.0,", "1.2"], ["rollout.temperature=0.6", ",1.0", ",", "1.2"]]
)
def test_a_list_with_blanks_is_told_as_the_list_that_was_meant(typed: list[str]) -> None:
    """The shell has taken it apart: what is left of it is no override, and quoting would not help."""
    with pytest.raises(UserError) as refused:
        check_overrides(["seed=1,2", *typed, "show=plan"])
    told = "a list of values must have no blanks, but the shell took one apart at them; write rollout.temperature="
    assert refused.value.problems == (f"{told}0.6,1.0,1.2",)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["rollout.temperature", "=", "0.6"], "rollout.temperature=0.6"),
        (["rollout.temperature=", "0.6"], "rollout.temperature=0.6"),
        (["kl={coef:", "0.1}"], "'kl={coef:0.1}'"),
        (["rollout.n=choice(3,", "5)"], "'rollout.n=choice(3,5)'"),
    ],
)
def test_any_override_with_blanks_is_told_as_what_was_meant(typed: list[str], meant: str) -> None:
    told = checked(["seed=1", *typed, "show=plan"]).problems
    assert len(told) == 1 and told[0].endswith(
        f"must have no blanks, but the shell took one apart at them; write {meant}"
    )


def test_an_empty_text_is_no_torn_override() -> None:
    assert checked(["tracking.project=", "seed=1", "~experiment"]).problems == []


# Keys that only some choices of a group have


def test_a_key_that_all_swept_choices_have_is_one() -> None:
    command = checked(["temperature=linear,cosine", "temperature.end=0.8", "seed=1"])
    assert (command.problems, command.partial) == ([], ["temperature.end=0.8"])
    assert checked(["temperature=linear,cosine", "rollout.temperature=0.8", "show=plan"]).partial == []


LACKING = {
    (
        "temperature=constant,cosine",
    ): "temperature=constant has none of that name, unlike temperature=cosine; leave that",
    ("temperature=constant,linear,piecewise", "algorithm=grpo,ppo"): (
        "temperature=constant and temperature=piecewise have none of that name, unlike temperature=linear; leave those"
    ),
}


@pytest.mark.parametrize("groups", LACKING)
def test_choices_that_lack_a_key_are_named(groups: tuple[str, ...]) -> None:
    (problem,) = checked([*groups, "temperature.end=0.8"]).problems
    assert problem.startswith(f"temperature.end must be a key of every arm's config, but {LACKING[groups]}")


def test_a_key_that_no_swept_choice_has_is_none() -> None:
    (problem,) = checked(["temperature=linear,cosine", "temperature.ned=0.8"]).problems
    assert "there is none of that name; did you mean temperature.end" in problem


def test_the_choices_of_listed_arms_count_as_well() -> None:
    listed = [["temperature=linear"], ["temperature=cosine"]]
    assert checked(["temperature.end=0.8"], listed).problems == []
    (problem,) = checked(["temperature.end=0.8"], [*listed, ["temperature=constant"]]).problems
    assert "but temperature=constant has none of that name" in problem


def test_the_keys_and_values_in_a_mapping_are_checked() -> None:
    found = checked(["kl={coeff: 0.1}", "actor_rollout_ref.actor.optim={lr: low},{rl: 1}"]).problems
    assert [problem.split("; ")[0] for problem in found] == [
        "kl.coeff must be a key of the config, but there is none of that name",
        "actor_rollout_ref.actor.optim.lr must be a number, but is 'low'",
        "actor_rollout_ref.actor.optim.rl must be a key of the config, but there is none of that name",
    ]
    free = "actor_rollout_ref.rollout.engine_kwargs.vllm={anything: {goes: 1}}"
    assert checked([free, "kl={coef: 0.1}"]).problems == []
