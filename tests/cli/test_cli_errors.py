"""What a user can get wrong is one line on standard error that names the culprit, and exit code 2."""

from pathlib import Path

import pytest

WRONG = {
    "unknown command": (["trian"], "there is no command 'trian'; did you mean 'train'?"),
    "unknown recipe": (["train", "cornerz"], "there is no recipe 'cornerz'; did you mean 'corners'?"),
    "no recipe": (["train"], "which recipe? give a name from `saccade list`"),
    "no run": (["evaluate"], "which run? give its folder, such as runs/grpo-1"),
    "unknown option": (["train", "corners", "--resum"], "there is no option --resum; did you mean --resume?"),
    "unknown option of list": (["list", "--jsn"], "there is no option --jsn; did you mean --json?"),
    "setting without its path": (
        ["train", "corners", "--steps", "3"],
        "there is no option --steps; did you mean --train.steps?",
    ),
    "unknown setting": (
        ["train", "corners", "--train.stepz", "3"],
        "train.stepz: there is no setting 'stepz'; did you mean 'steps'?",
    ),
    "unknown entry": (
        ["train", "corners", "--rewards.bx.weight", "3"],
        "rewards.bx: there is no setting 'bx'; did you mean 'box'?",
    ),
    "setting of a value": (
        ["train", "corners", "--train.steps.more", "3"],
        "train.steps.more: train.steps is 12 and has no settings",
    ),
    "wrong type": (["train", "corners", "--train.steps", "x"], "train.steps: expected int, got 'x'"),
    "wrong choice": (
        ["train", "corners", "--train.old-logp", "new"],
        "train.old_logp: expected Literal['behaviour', 'recompute'], got 'new'",
    ),
    "bad value": (["train", "corners", "--train.steps", "0"], "train.steps must be >= 1, got 0"),
    "no value": (["train", "corners", "--train.steps"], "--train.steps needs a value: INT"),
    "two values": (["train", "corners", "--train.steps", "3", "4"], "--train.steps takes one value (INT), got 3 4"),
    "given twice": (["train", "corners", "--train.lr", "1", "--train.lr", "2"], "--train.lr is given twice"),
    "value for an object": (
        ["train", "corners", "--rewards.box", "2"],
        "rewards.box: expected settings of RightBox, got 2",
    ),
    "unknown class": (
        ["train", "corners", "--objective.pg.class", "PPOClop"],
        "--objective.pg.class: there is no class 'PPOClop'; did you mean PPOClip?",
    ),
    "keyword of other recipes": (["train", "corners", "--shift", "x"], "--shift: expected int, got 'x'"),
    "keyword of no use": (
        ["train", "corners", "--reward", "mine.py:score"],
        "recipe corners takes no --reward; those that do: ",
    ),
    "missing file": (["train", "corners", "--config", "none.yaml"], "none.yaml: No such file or directory"),
    "bad size": (["train", "corners", "--size", "big"], "argument --size: invalid choice: 'big'"),
    "no number": (["train", "corners", "--save-every", "x"], "argument --save-every: invalid int value: 'x'"),
    "no folder to resume": (["train", "corners", "--resume"], "--resume needs the folder of the run: --out DIR"),
    "no device": (["train", "corners", "--device", "abacus"], "--device abacus cannot be used: "),
    "not a run": (["report", "nowhere"], "nowhere holds no run: there is no config.yaml"),
    "unknown pillar": (["list", "vlms"], "there is no pillar 'vlms'; known: vlm, generation, unified, vla"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(saccade, case):
    words, message = WRONG[case]
    done = saccade(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"saccade: error: {message}")
    assert done.err.count("\n") == 1
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [1,\nb: }", "mine.yaml is not valid YAML: while parsing a flow node"),
        ("- 1", "mine.yaml: expected settings, name: value, got list"),
        ("train:\n  step: 3", "train.step: there is no setting 'step'; did you mean 'steps'?"),
        ("train:\n  lr: fast", "train.lr: expected float, got 'fast'"),
        ("class: os.system", "class: 'os.system' is not a dataclass"),
        ("class: saccade.recipe.Train", "mine.yaml: expected a Recipe, got Train"),
    ],
    ids=["syntax", "not a mapping", "unknown name", "wrong type", "foreign class", "not a recipe"],
)
def test_a_wrong_file_is_one_line_and_exit_code_2(saccade, text, message):
    Path("mine.yaml").write_text(text)
    done = saccade("train", "corners", "--config", "mine.yaml")
    assert done.code == 2
    assert done.err.startswith(f"saccade: error: {message}")
    assert done.err.count("\n") == 1


def test_an_error_of_the_program_itself_is_not_hidden(saccade, monkeypatch):
    import scripted

    def broken(self, trajectory):
        raise ZeroDivisionError("a bug in a reward")

    monkeypatch.setattr(scripted.RightBox, "score", broken)
    with pytest.raises(ZeroDivisionError):
        saccade("train", "corners", "--train.steps", "1")
