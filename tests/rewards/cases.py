"""What each reward must say of an output; at least of a gold, a wrong, a malformed and an empty one."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from saccade.core.content import Content, Image, Text
from saccade.core.reward import Reward
from saccade.core.trajectory import Prompt, Task, Trajectory, Turn
from saccade.rewards.format import (
    JsonSchema,
    LengthTarget,
    LengthWindow,
    Overlong,
    Repetition,
    Tags,
    TurnPattern,
)
from saccade.rewards.geometry import BoxIoU, GIoU, HungarianBoxes, MaskIoU, PointInBox, TemporalIoU
from saccade.rewards.text import Bleu, EditDistance, NameRecall, Rouge, WordErrorRate
from saccade.rewards.verify import (
    ChoiceMatch,
    CountMatch,
    ExactMatch,
    GradedLadder,
    NumberMatch,
    RelativeAccuracy,
    SetJaccard,
    SetOverlap,
    SympyEqual,
)

PICTURE = Image(np.zeros((50, 100, 3), dtype=np.uint8))
"""100 wide, 50 high."""


def turn(text: str, actions: int = 1, **more: Any) -> Turn:
    empty = torch.zeros(actions)
    return Turn((Text(text),), None, empty, empty == 0, torch.zeros(actions, dtype=torch.int64), **more)


def trajectory(
    *outputs: str, target: Any = None, actions: int = 1, prompt: Content = (), id: str = "t", **info: Any
) -> Trajectory:
    """A trajectory with these outputs, one a turn."""
    task = Task(id, prompt or (Text("which?"), PICTURE), target, info=info)
    return Trajectory(Prompt(task, task.prompt), [turn(output, actions) for output in outputs])


@dataclass(frozen=True)
class Case:
    reward: Reward
    target: Any
    rows: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Label to (output, expected score)."""
    maximum: float = 1.0
    actions: int = 1


def answers(**rows: tuple[str, float]) -> dict[str, tuple[str, float]]:
    """Rows whose outputs are wrapped into the answer tag, and the outputs that have none."""
    wrapped = {label: (f"<think>hm</think><answer>{text}</answer>", value) for label, (text, value) in rows.items()}
    return {"malformed": ("<answer>no end", 0.0), "empty": ("", 0.0), **wrapped}


SQUARE = np.zeros((4, 6), dtype=bool)
SQUARE[1:3, 2:5] = True
"""Rows 1-2, columns 2-4: six pixels."""

TRIPLES = ("2.color.cyan", "5.size.large")
LONG = "Here is Bo, who stands in front of the blue house and looks at the photographer with a smile on his round face."

CASES = [
    Case(
        ExactMatch(),
        "Red fox",
        answers(
            gold=("Red fox", 1),
            case_and_blanks=(" red  FOX. ", 1),
            quoted=('"red fox"', 1),
            wrong=("red", 0),
            more=("red fox cub", 0),
        ),
    ),
    Case(ExactMatch(), 7, answers(gold=("7", 1), wrong=("8", 0), words=("seven", 0))),
    Case(ExactMatch(), ["seven", 7], answers(gold=("7", 1), other=("Seven", 1), wrong=("6", 0))),
    Case(
        ExactMatch(tag=""),
        "yes",
        {"gold": ("Yes.", 1), "wrong": ("no", 0), "malformed": ("<answer>yes</answer>", 0), "empty": ("", 0)},
    ),
    # tolerance max(1e-6, .1 * 50) = 5
    Case(
        NumberMatch(relative=0.1),
        50,
        answers(
            gold=("50", 1),
            within=("about 55", 1),
            beyond=("55.1", 0),
            last_counts=("10 or 50", 1),
            wrong=("5", 0),
            no_number=("fifty", 0),
            minus=("-50", 0),
        ),
    ),
    Case(
        NumberMatch(),
        -1234.5,
        answers(
            gold=("-1,234.5", 1),
            sign=("\u22121234.5 m", 1),
            scientific=("-1.2345e3", 1),
            wrong=("1234.5", 0),
            huge=("9" * 5000, 0),
        ),
    ),
    # an error of .1 is below .15, .20, ..., .50: 8 of 10; .05 below all but .05; .3 below .35 ... .50; .5 below none
    Case(
        RelativeAccuracy(),
        10,
        answers(
            gold=("10", 1),
            tenth=("11", 0.8),
            twentieth=("9.5", 0.9),
            third=("13", 0.4),
            half=("15", 0),
            wrong=("100", 0),
            no_number=("ten", 0),
        ),
    ),
    Case(RelativeAccuracy(), 0, answers(gold=("0", 1), wrong=("0.1", 0))),
    Case(
        ChoiceMatch(),
        "B",
        answers(
            gold=("B", 1),
            lower=("b", 1),
            bracket=("(B)", 1),
            sentence=("It is B) a cat", 1),
            article=("a cat B", 1),
            first=("A or B", 0),
            wrong=("C", 0),
            none=("nothing", 0),
            inside=("Bus", 0),
        ),
    ),
    Case(
        ChoiceMatch(choices=("yes", "no"), tag=""),
        "no",
        {
            "gold": ("No, they differ.", 1),
            "wrong": ("yes", 0),
            "first": ("yes, no", 0),
            "inside": ("nothing", 0),
            "malformed": ("not sure", 0),
            "empty": ("", 0),
        },
    ),
    Case(
        SympyEqual(limit=10.0),
        "2*x + 1/2",
        answers(
            gold=("2*x + 1/2", 1),
            reordered=("1/2 + x*2", 1),
            implicit=("2x + 0.5", 1),
            latex=(r"$2x + \frac{1}{2}$", 1),
            boxed=(r"\boxed{\frac{4x+1}{2}}", 1),
            named=("y = 2x + 1/2", 1),
            wrong=("2*x + 1/3", 0),
            unbalanced=("2*x + (1/2", 0),
            words=("two x and a half", 0),
            python=("__import__('os').system('true')", 0),
            attribute=("x.__class__", 0),
            two_numbers=("2 3", 0),
        ),
    ),
    Case(
        SympyEqual(limit=10.0),
        r"\sqrt{8}",
        answers(
            gold=("2*sqrt(2)", 1),
            power=("8^(1/2)", 1),
            unicode=("2\u221a2", 1),
            wrong=("2.83", 0),
            root=(r"\sqrt[4]{64}", 1),
        ),
    ),
    Case(
        SympyEqual(limit=10.0),
        "(1, 2)",
        answers(
            gold=("(1, 2)", 1),
            expression=("(2/2, 1+1)", 1),
            wrong=("(2, 1)", 0),
            scalar=("1", 0),
            concatenated=("(1)+(2)", 0),
        ),
    ),
    Case(
        SympyEqual(limit=10.0),
        r"\{1, 2\}",
        answers(gold=("{1, 2}", 1), reordered=("{2, 1, 1}", 1), wrong=("{1, 3}", 0), difference=("{1, 2} - {3}", 0)),
    ),
    Case(
        SympyEqual(),
        "50%",
        answers(
            gold=("50%", 1),
            half=("1/2", 1),
            factorial=("3!/12", 1),
            log=(r"\log(e)/2", 1),
            wrong=("50", 0),
            infinite=("1/0", 0),
        ),
    ),
    Case(
        SetOverlap(),
        ["A", "C"],
        answers(
            gold=("A,C", 1),
            reordered=("c, a", 1),
            half=("A", 0.5),
            repeated=("A, A", 0.5),
            superset=("A,B,C", 0),
            wrong=("B", 0),
            none=("", 0),
        ),
    ),
    Case(SetOverlap(), [], answers(gold=("", 1), wrong=("A", 0))),
    # {a, b} and {a, c} share one of three
    Case(
        SetJaccard(), "A, C", answers(gold=("C; A", 1), third=("A,B", 1 / 3), superset=("A,B,C", 2 / 3), wrong=("D", 0))
    ),
    Case(CountMatch(), 2, answers(gold=("cup, plate", 1), wrong=("cup", 0), none=("", 0))),
    Case(CountMatch(), ["cup", "plate", "cup"], answers(gold=("x\ny\nz", 1), wrong=("cup, plate", 0))),
    # full 5, object and attribute 1.5, object .5; -1 a prediction not fully right; -1 a missing one
    Case(
        GradedLadder(),
        TRIPLES,
        {
            "gold": ("<answer>2.color.cyan, 5.size.large</answer>", 10),
            "one": ("<answer>5.size.large</answer>", 5 - 1),
            "value": ("<answer>2.color.red, 5.size.large</answer>", 1.5 + 5 - 1),
            "attribute": ("<answer>2.shape.cube, 5.size.large</answer>", 0.5 + 5 - 1),
            "wrong": ("<answer>1.color.cyan</answer>", -1 - 1),
            "enumeration": ("<answer>2.color.cyan, 2.color.red, 2.color.blue, 5.size.large</answer>", 10 - 2),
            "repetition": ("<answer>2.color.cyan, 2.color.cyan</answer>", 5 - 1),
            "short_tuple": ("<answer>2.color, 5.size.large</answer>", 5 - 1),
            "order": ("<answer>5.size.large;2.Color.Cyan</answer>", 10),
            "malformed": ("2.color.cyan", -2),
            "empty": ("", -2),
        },
        maximum=10,
    ),
    Case(
        GradedLadder(ladder=(0.0, 0.0, 1.0), wrong=0.0, missing=0.0),
        [(2, "color", "cyan")],
        answers(gold=("2.color.cyan", 1), wrong=("2.color.red", 0)),
    ),
    # both n-gram orders match in full; "the cat" against "the dog" at order 1: one of two words
    Case(Bleu(order=1), "the cat", answers(gold=("The cat", 1), half=("the dog", 0.5), wrong=("my dog", 0))),
    # from rouge_score 0.1.2: rouge1 .6, rouge2 .25, rougeL .6
    Case(
        Rouge(),
        "The Quick-brown fox, jumps!",
        answers(
            gold=("the quick brown fox jumps", 1),
            partial=("quick brown dog jumps over", (0.6 + 0.25 + 0.6) / 3),
            wrong=("nothing of it", 0),
        ),
    ),
    # from rouge_score 0.1.2: rouge1 .75, rouge2 1/3, rougeL .5
    Case(Rouge(kinds=("1",)), "a a a b", answers(gold=("b a a a", 1), partial=("a b b a", 0.75), wrong=("c", 0))),
    Case(
        Rouge(kinds=("2", "L")),
        ["x", "a a a b"],
        answers(gold=("a a a b", 1), partial=("a b b a", (1 / 3 + 0.5) / 2), wrong=("c", 0)),
    ),
    # kitten -> sitting takes 3 edits of 7
    Case(EditDistance(), "sitting", answers(gold=("sitting", 1), near=("kitten", 1 - 3 / 7), wrong=("aaa", 0))),
    # one substitution and one insertion over four words
    Case(
        WordErrorRate(),
        "stop on red light",
        answers(gold=("Stop on red light!", 1), near=("stop at red traffic light", 0.5), wrong=("a b c d e f g h", 0)),
    ),
    Case(
        NameRecall(),
        "Bo",
        {
            "gold": (LONG, 1),
            "wrong": (LONG.replace("Bo", "Al"), 0),
            "malformed": ("Bo", 0),
            "empty": ("", 0),
            "case": (LONG.replace("Bo", "bo"), 0),
        },
    ),
    Case(
        NameRecall(min_chars=5),
        ["<sks>", "Bo"],
        {
            "gold": ("<sks> meets Bo", 1),
            "half": ("<sks> meets Al", 0.5),
            "closed": ("<sks>Bo</sks> is Bo", 0.5),
            "wrong": ("nobody here", 0),
            "malformed": ("Bo", 0),
            "empty": ("", 0),
        },
    ),
    # target 10 x 10; (15, 10) - (25, 20) shares 5 x 10: 50 / 150
    Case(
        BoxIoU(),
        [10, 10, 20, 20],
        answers(
            gold=("[10, 10, 20, 20]", 1),
            third=("[15, 10, 25, 20]", 1 / 3),
            inner=("<box>10,10,20,15</box>", 0.5),
            blanks=("10 10 20 20", 1),
            json=('```json\n{"bbox_2d": [\n10,\n10,\n20,\n20], "label": "cup 2"}\n```', 1),
            pairs=("(10,10),(20,20)", 1),
            first=("[10,10,20,15], [10,10,20,20]", 0.5),
            wrong=("[30, 30, 40, 40]", 0),
            reversed=("[20, 20, 10, 10]", 0),
            three=("[10, 10, 20]", 0),
            five=("[10, 10, 20, 20, 5]", 0),
            huge=("[1e308, 1, 1e309, 2]", 0),
        ),
    ),
    Case(
        BoxIoU(threshold=0.5),
        "10,10,20,20",
        answers(gold=("[10,10,20,20]", 1), just=("[10,10,20,15]", 1), wrong=("[10,10,20,14.9]", 0)),
    ),
    # the picture is 100 x 50: 100 -> 10 across, 200 -> 10 down
    Case(
        BoxIoU(scale=1000, tag="box"),
        [10, 10, 20, 20],
        {
            "gold": ("<answer><box>100,200,200,400</box></answer>", 1),
            "wrong": ("<box>10,10,20,20</box>", 0),
            "malformed": ("[100,200,200,400]", 0),
            "empty": ("", 0),
        },
    ),
    # (30, 10) - (40, 20) does not meet: hull 30 x 10, union 200: GIoU -1/3, paid 1/3
    Case(
        GIoU(),
        [10, 10, 20, 20],
        answers(
            gold=("[10,10,20,20]", 1), apart=("[30,10,40,20]", 1 / 3), half=("[10,10,20,15]", 0.75), wrong=("box", 0)
        ),
    ),
    Case(
        PointInBox(),
        [10, 10, 20, 20],
        answers(
            gold=("[15, 15]", 1),
            border=("(10, 20)", 1),
            json=('{"point_2d": [12, 13]}', 1),
            wrong=("[5, 15]", 0),
            box=("[10,10,20,20]", 0),
        ),
    ),
    Case(PointInBox(scale=1), [10, 10, 20, 20], answers(gold=("0.15, 0.3", 1), wrong=("0.15, 0.6", 0))),
    # down the columns of 4: 9 zeros, then 2 ones and 2 zeros, three times, but 5 zeros at the end: 24 in all
    Case(
        MaskIoU(),
        SQUARE,
        answers(
            gold=('{"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]}', 1),
            box=("[2, 1, 5, 3]", 1),
            polygon=("[2,1, 5,1, 5,3, 2,3]", 1),
            two=("[2,1,5,2] [2,2,5,3]", 1),
            half=("[2, 1, 5, 2]", 0.5),
            larger=("[-9, -9, 99, 99]", 6 / 24),
            wrong=("[0, 0, 1, 1]", 0),
            size=('{"size": [6, 4], "counts": [24]}', 0),
            short=('{"size": [4, 6], "counts": [9, 2]}', 0),
            negative=('{"size": [4, 6], "counts": [30, -6]}', 0),
            text=('{"size": [4, 6], "counts": "ab"}', 0),
        ),
    ),
    # the triangle (0,0) (4,0) (0,4) holds the centres with x + y < 4
    Case(
        MaskIoU(),
        np.add.outer(np.arange(4) + 0.5, np.arange(6) + 0.5) < 4,
        answers(gold=("0,0, 4,0, 0,4", 1), wrong=("[5,3,6,4]", 0)),
    ),
    Case(
        TemporalIoU(),
        [5, 10],
        answers(
            gold=("[5, 10]", 1),
            seconds=("5s to 10s", 1),
            third=("from 7.5 to 12.5", 1 / 3),
            dash=("5-10", 1),
            wrong=("[20, 30]", 0),
            reversed=("[10, 5]", 0),
            one=("5", 0),
        ),
    ),
    Case(
        TemporalIoU(threshold=0.5), [5, 10], answers(gold=("[5, 10]", 1), just=("[5, 7.5]", 1), wrong=("[5, 7.4]", 0))
    ),
    # 1 of 2 predicted, 1 of 2 found; with three guesses for two boxes 2 / 3 and 1
    Case(
        HungarianBoxes(),
        [[0, 0, 10, 10], [20, 0, 30, 10]],
        answers(
            gold=("[20,0,30,10], [0,0,10,10]", 1),
            half=("[0,0,10,10], [50,0,60,10]", 0.5),
            one=("[0,0,10,10]", 0.5 + 0.25),
            three=("[[0,0,10,10],[20,0,30,10],[50,0,60,10]]", 1 / 3 + 0.5),
            repeated=("[0,0,10,10],[0,0,10,10]", 0.5),
            wrong=("[50,0,60,10]", 0),
        ),
    ),
    Case(HungarianBoxes(precision=1, recall=0), [], answers(gold=("none", 1), wrong=("[0,0,1,1]", 0))),
    Case(
        Tags(("think", "answer")),
        None,
        {
            "gold": ("<think>a</think>\n<answer>b</answer> ", 1),
            "wrong": ("<answer>b</answer><think>a</think>", 0),
            "malformed": ("<think>a</think><answer>b", 0),
            "empty": ("", 0),
            "twice": ("<think>a</think><answer>b</answer><answer>b</answer>", 0),
            "text": ("well <think>a</think><answer>b</answer>", 0),
            "nested": ("<think><answer>a</think><answer>b</answer>", 0),
            "missing": ("<answer>b</answer>", 0),
            "between": ("<think>a</think>so<answer>b</answer>", 0),
        },
    ),
    Case(
        TurnPattern(),
        None,
        {
            "gold": ("<think>a</think><answer>b</answer>", 1),
            "wrong": ("<think>a</think><box>b</box>", 0),
            "malformed": ("<think>", 0),
            "empty": ("", 0),
        },
    ),
    Case(
        JsonSchema(schema={"type": "object", "required": ("x",), "properties": {"x": {"type": "array"}}}),
        None,
        answers(
            gold=('{"x": [1]}', 1),
            fenced=('so:\n```json\n{"x": []}\n```', 1),
            wrong=('{"y": 1}', 0.5),
            type=('{"x": 1}', 0.5),
            broken=("{x}", 0),
        ),
    ),
    Case(
        LengthWindow(low=3, high=5),
        None,
        {"gold": ("", 1), "wrong": ("", 1), "malformed": ("", 1), "empty": ("", 1)},
        actions=4,
    ),
    Case(
        LengthTarget(target=10),
        None,
        {"gold": ("", 0.4), "wrong": ("", 0.4), "malformed": ("", 0.4), "empty": ("", 0.4)},
        actions=4,
        maximum=0.4,
    ),
    Case(
        Overlong(limit=5, buffer=2),
        None,
        {"gold": ("", -0.5), "wrong": ("", -0.5), "malformed": ("", -0.5), "empty": ("", -0.5)},
        actions=4,
        maximum=-0.5,
    ),
    # a b, b a, a b, b c: 3 different of 4
    Case(
        Repetition(n=2),
        None,
        {"gold": ("a b c", 0), "wrong": ("a b a b c", -0.25), "malformed": ("a", 0), "empty": ("", 0)},
        maximum=0,
    ),
]
