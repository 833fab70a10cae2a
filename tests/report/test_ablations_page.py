import json
import math

import pytest

from saccade.core.errors import DataError
from saccade.report.ablations import Method, load_results, one_line, page

RESULT = {
    "method": "grpo",
    "pillar": "vlm",
    "paper": "2402.03300",
    "mechanism": "the advantage is relative to the group, so that no value network is needed for anything. More words.",
    "metric": "accuracy",
    "higher_is_better": True,
    "seeds": [0, 1, 2],
    "with": [0.5, 0.7, 0.9],
    "without": [0.4, 0.4, 0.4],
    "difference": 0.3,
    "stderr": 0.1155,
    "margin": 0.02,
    "verdict": "holds",
    "command": "saccade ablate grpo",
    "commit": "abc123",
}
GRPO = Method("grpo", "vlm", "2402.03300", "the advantage is relative to the group", "accuracy")


def row(text: str, name: str) -> list[str]:
    """Cells of the table's row of a method."""
    (line,) = [line for line in text.splitlines() if line.startswith((f"| [`{name}`]", f"| `{name}`"))]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_result_is_told_with_the_standard_error_over_its_seeds():
    """(0.5, 0.7, 0.9) has mean 0.7, variance 0.04 and standard error sqrt(0.04 / 3) = 0.1155."""
    cells = row(page([GRPO], {"grpo": RESULT}), "grpo")
    assert cells == [
        "[`grpo`](recipes.md#grpo)",
        "[2402.03300](https://arxiv.org/abs/2402.03300)",
        "the advantage is relative to the group, so that no value network is needed for anything",
        "accuracy",
        "0.70 ± 0.12",
        "0.400000 ± 0.000000",
        "+0.30 ± 0.12",
        "0, 1, 2",
        "**holds**",
        "`saccade ablate grpo`",
        "`abc123`",
    ]


def test_less_is_better_and_one_seed_are_marked():
    one = {
        **RESULT, "higher_is_better": False, "seeds": [4], "with": [0.5], "without": [0.9], "difference": 0.4,
        "stderr": math.nan, "verdict": "inconclusive",
    }  # fmt: skip
    cells = row(page([GRPO], {"grpo": one}), "grpo")
    assert cells[3:9] == ["accuracy ↓", "0.5", "0.9", "+0.4 (one seed, no error)", "4", "inconclusive"]


def test_a_margin_that_stands_in_the_way_is_named():
    short = {**RESULT, "difference": 0.03, "stderr": 0.01, "margin": 0.05, "verdict": "inconclusive"}
    assert row(page([GRPO], {"grpo": short}), "grpo")[8] == "inconclusive (margin 0.05)"


def test_methods_without_a_result_are_listed_and_counted():
    other = Method("dapo", "vlm", "2503.14476", "groups | of one mind", "accuracy")
    plain = Method("sft", "vlm", "supervised learning", "likelihood", None)
    text = page([GRPO, other, plain], {"grpo": RESULT})
    assert "| Models that see | 1 | 0 | 0 | 1 |" in text
    assert "| groups \\| of one mind | accuracy |  |  |  |  | not run | `saccade ablate dapo` |" in text
    assert row(text, "sft")[2:4] == ["likelihood", "no ablation"]
    assert row(text, "sft")[1] == "supervised learning"


def test_results_of_unknown_methods_are_not_hidden():
    assert row(page([], {"grpo": RESULT}), "grpo")[0] == "`grpo` (not in the catalogue)"


def test_one_line_of_a_mechanism_is_its_first_sentences():
    assert one_line("Short. The second sentence is what explains it all to a reader. Third.") == (
        "Short. The second sentence is what explains it all to a reader"
    )
    cut = one_line("`code " + "word " * 100)
    assert len(cut) < 330 and cut.endswith(" …`")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is damaged"),
        ("[]", "has no 'method'"),
        (json.dumps({key: value for key, value in RESULT.items() if key != "stderr"}), "has no 'stderr'"),
    ],
)
def test_damaged_results_are_named(tmp_path, text, told):
    (tmp_path / "grpo.json").write_text(text)
    with pytest.raises(DataError, match=told) as found:
        load_results(tmp_path)
    assert "grpo.json" in str(found.value)


def test_two_results_of_a_method_are_refused(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(RESULT))
    with pytest.raises(DataError, match="another result of grpo"):
        load_results(tmp_path)
