import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.errors import ConfigError, DataError
from saccade.policies.token.vocabulary import PUNCTUATION, TAGS, WORDS, Vocabulary

VOCABULARY = Vocabulary(("zebra", "<look>"), side=64, bins=16)

GOLD = [
    "<answer>7</answer>",
    "<answer>12</answer>",
    "<answer><box>12,20,40,52</box></answer>",
    "<think>red is 3 blue is 4</think><answer>7</answer>",
    "<think>the red digit is 3, the blue digit is 4. so 3 + 4 = 7</think><answer>yes</answer>",
    "<answer>A,C</answer>",
    "<tool>crop 12 20 40 52</tool>",
    "<tool>draw box 0,4,60,64</tool>",
    '{"box": [13, 20, 64, 7]}',
    "<answer>Yes</answer>",
    "3 4 34",
    "12px"[:2],
    "-3.5",
    "red",
    "",
    " red  blue \n\n green",
    "<look>zebra</look>"[:11],
]


@pytest.mark.parametrize("text", GOLD)
def test_text_comes_back_as_it_was(text):
    assert VOCABULARY.decode(VOCABULARY.encode(text, strict=True)) == text


pieces = st.sampled_from([*WORDS[:20], *PUNCTUATION, *"0123456789", "12", "64", "007", " ", "  ", "\n"])
tags = st.sampled_from([f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")])


@given(st.lists(st.one_of(pieces, tags, st.just("zebra")), max_size=30).map(lambda words: words))
def test_any_text_of_known_words_comes_back_as_it_was(words):
    """Words are kept apart where they would run into another word; everything else may touch."""
    text = ""
    for word in words:
        glued = text[-1:].isalpha() and word[:1].isalpha()
        text += f" {word}" if glued else word
    try:
        ids = VOCABULARY.encode(text, strict=True)
    except DataError:
        # Neighbouring signs can spell a tag that is not in the vocabulary.
        assert "<" in text
        return
    assert VOCABULARY.decode(ids) == text
    assert max(ids, default=0) < VOCABULARY.outputs


def test_gold_spelling_needs_one_token_a_word_and_location():
    """tag tag loc , loc , loc , loc tag tag."""
    ids = VOCABULARY.encode("<answer><box>12,20,40,52</box></answer>", strict=True)
    assert VOCABULARY.pieces(ids) == ["<answer>", "<box>", "12", ",", "20", ",", "40", ",", "52", "</box>", "</answer>"]
    assert len(VOCABULARY.encode("red is 3 blue is 4", strict=True)) == 6


def test_only_multiples_of_the_bin_inside_a_box_are_location_tokens():
    """side / bins = 4."""
    for text, expected in [
        ("<box>12</box>", ["12"]), ("<box>13</box>", ["1", "3"]), ("<box>64</box>", ["64"]),
        ("<box>68</box>", ["6", "8"]), ("<box>0</box>", ["0"]), ("<box>04</box>", ["0", "4"]),
    ]:  # fmt: skip
        assert VOCABULARY.pieces(VOCABULARY.encode(text, strict=True))[1:-1] == expected
    assert VOCABULARY.pieces(VOCABULARY.encode("12", strict=True)) == ["1", "2"]
    assert VOCABULARY.encode("<box>0</box>", strict=True)[1] != VOCABULARY.encode("0", strict=True)[0]


def test_an_unknown_word_of_an_output_is_named():
    with pytest.raises(DataError, match="'giraffe'"):
        VOCABULARY.encode("a giraffe", strict=True)
    with pytest.raises(DataError, match="'<foo>'"):
        VOCABULARY.encode("<foo>", strict=True)


def test_contexts_fall_back_to_lower_case_and_then_to_unknown():
    ids = VOCABULARY.encode("Where giraffe", strict=False)
    assert ids == [VOCABULARY.encode("where", strict=True)[0], VOCABULARY.unknown]


def test_words_given_twice_have_one_token():
    assert Vocabulary(("red", "zebra", "zebra"), 64, 16).outputs == Vocabulary(("zebra",), 64, 16).outputs


@pytest.mark.parametrize("word", ["two words", "", "a1", "<Look>", "semi;colon"])
def test_words_that_are_not_one_token_are_refused(word):
    with pytest.raises(ConfigError, match="words"):
        Vocabulary((word,), 64, 16)


def test_context_tokens_cannot_be_written():
    special = (VOCABULARY.start, VOCABULARY.image, VOCABULARY.unknown, VOCABULARY.pad)
    assert min(special) == VOCABULARY.outputs and max(special) == VOCABULARY.size - 1
    assert VOCABULARY.decode([*special, VOCABULARY.end]) == ""
