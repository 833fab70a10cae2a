"""Answers that models write, and what is read out of them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.evaluate.rules.extraction import boxed, choice, conclusion, number, said, short_answer, yes_or_no

OPTIONS = {"A": "a dog", "B": "cat", "C": "the red car", "D": "none of these"}

CHOICES = [
    ("B", "B"),
    ("b", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    (" **B** \n", "B"),
    ("`C`", "C"),
    ("B. cat", "B"),
    ("B) cat", "B"),
    ("(c) the red car", "C"),
    ("b)", "B"),
    ("option B", "B"),
    ("Option (C) is correct", "C"),
    ("The answer is (B).", "B"),
    ("The answer is B, because it has whiskers.", "B"),
    ("**Answer:** C", "C"),
    ("Answer:\nB", "B"),
    ("answer: b", "B"),
    ("the answer is B) cat", "B"),
    ("The correct option is: **D**", "D"),
    ("The best choice is option B, since it purrs.", "B"),
    ("Therefore, the final answer is $\\boxed{B}$.", "B"),
    ("\\boxed{\\text{D}}", "D"),
    ("\\boxed{(B) cat}", "B"),
    ("\\boxed{cat}", "B"),
    ("I think it is C because A is wrong", "C"),
    ("The answer is C. Option A is wrong.", "C"),
    ("First I thought the answer is A. But no: the answer is C.", "C"),
    ("A is wrong and B is too. C is the correct answer.", "C"),
    ("The answer is C and A is wrong.", "C"),
    ("The answer is none of these.", "D"),
    ("The answer is not B", None),
    ("Ans: B", "B"),
    ("Option: B", "B"),
    ("Choice - C", "C"),
    ("<think>I put it in <answer> tags.</think> B", "B"),
    ("<think>hm <answer>B</answer></think>", "B"),
    ("I would go with D", "D"),
    ("So I choose C.", "C"),
    ("It must be option D here", "D"),
    ("<think>A or B? Perhaps the answer is A.</think><answer>C</answer>", "C"),
    ("<think>The answer is A.</think>\n\nB", "B"),
    ("<answer>B", "B"),
    ("<answer> (B) cat </answer> That is all.", "B"),
    ("B\n\nThe cat is visible at the left.", "B"),
    ("A, because it barks", "A"),
    ("The answer is A because it barks", "A"),
    ("the red car", "C"),
    ("Cat.", "B"),
    ("Answer: a dog", "A"),
    ("It is a cat.", "B"),
    ("It is not the red car but the cat.", "B"),
    ("A cat sits there.", "B"),
    ("Ｂ", "B"),
    ("（Ｃ）", "C"),
    ("答案是Ｂ。", "B"),
    ("正确答案为（D）", "D"),
    ("选C", "C"),
    ("答案：B，因为有胡须", "B"),
    ("A or B?", None),
    ("The answer is A or B", None),
    ("Answer: A, B", None),
    ("Both B and C", None),
    ("(A) is wrong, (B) too", None),
    ("Not A", None),
    ("A. a dog\nB. cat\nC. the red car\nD. none of these", None),
    ("It's not a dog", None),
    ("I see a dog and a cat.", None),
    ("E", None),
    ("The answer is E", None),
    ("\\boxed{7}", None),
    ("I cannot tell.", None),
    ("A picture of nothing", None),
    ("", None),
    ("<answer></answer>", None),
    ("☃" * 100_000, None),
    ("x" * 100_000 + " The answer is B.", "B"),
]


@pytest.mark.parametrize(("text", "letter"), CHOICES, ids=lambda value: repr(value)[:40])
def test_a_choice_is_read_as_a_person_would(text, letter):
    assert choice(text, OPTIONS) == letter


def test_letters_are_read_without_words_of_options():
    bare = dict.fromkeys("ABCD", "")
    assert choice("The right figure is (C).", bare) == "C"
    assert choice("Two of A and B", bare) is None
    assert choice("a dog", bare) is None


def test_the_longer_of_two_options_that_both_occur_is_meant():
    options = {"A": "red", "B": "dark red", "C": "blue"}
    assert choice("The car is dark red, I would think", options) == "B"
    assert choice("The car is red", options) == "A"


def test_ten_options_are_told_from_the_pronoun():
    ten = dict.fromkeys("ABCDEFGHIJ", "")
    assert choice("I think the answer is J.", ten) == "J"
    assert choice("I am sure.", ten) is None
    assert choice("Answer: I", ten) == "I"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("No, there is none.", "no"),
        ("**no**", "no"),
        ("y", "yes"),
        ("The answer is no.", "no"),
        ("\\boxed{Yes}", "yes"),
        ("<think>No?</think><answer>yes</answer>", "yes"),
        ("There is a dog, yes", "yes"),
        ("是", "yes"),
        ("没有。", "no"),
        ("Yes or no?", None),
        ("There is a dog", None),
        ("Yesterday I noted it", None),
        ("", None),
    ],
)
def test_yes_and_no_are_read(text, answer):
    assert yes_or_no(text) == answer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-7", -7),
        ("The answer is 12.5 m.", 12.5),
        ("The answer is 3 of 4", 3),
        ("There are 3 and 4, so 7", 7),
        ("\\boxed{1,234}", 1234),
        ("about 50%", 50),
        ("1/4", 0.25),
        ("<answer>6</answer> not 7", 6),
        ("none", None),
        ("9" * 400, None),
        ("1/0", 0),
        ("", None),
    ],
)
def test_numbers_are_read(text, value):
    assert number(text) == value


def test_short_answers_are_boxed_or_said_or_the_whole_text():
    assert short_answer("I see.\nAnswer: **Red car**") == "Red car"
    assert short_answer("The answer is 12.5%.") == "12.5%"
    assert short_answer("so \\boxed{\\frac{1}{2}} it is") == "\\frac{1}{2}"
    assert short_answer("Blue.") == "Blue"
    assert short_answer(" . ") is None and short_answer("") is None
    assert said("The answers vary by year") is None
    assert boxed("\\boxed{never closed") is None and boxed("none") is None
    assert boxed("\\boxed{1} then \\boxed{2}") == "2"
    assert conclusion("a<answer>b</answer>c<answer>d") == "d"


JUNK = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from([*OPTIONS, *"(.:*,\n ", "answer", " is ", "\\boxed{", "}", "<answer>", "或", "or"])).map(
        "".join
    ),
)


@given(JUNK)
def test_reading_never_raises_and_gives_what_was_asked_for(text):
    assert choice(text, OPTIONS) in {*OPTIONS, None}
    assert yes_or_no(text) in ("yes", "no", None)
    assert number(text) is None or isinstance(number(text), float)
    assert short_answer(text) is None or short_answer(text)


@pytest.mark.parametrize(
    "piece",
    ["(", "A ", "A", "answer ", "answer is ", "it is", "\\boxed{", "<answer>", "\n", " ", "B.\n", "not ", "1/", "9"],
)
def test_long_texts_are_read_in_time(piece):
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    for read in (yes_or_no, number, short_answer, lambda text: choice(text, OPTIONS)):
        read(text)
    assert time.process_time() - started < 2
