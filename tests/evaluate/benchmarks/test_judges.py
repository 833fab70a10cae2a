"""The networks that judge pictures, on small random checkpoints of the real architectures."""

import judge_checkpoints
import numpy as np
import pytest
import torch
from PIL import Image as Picture

from saccade.core.content import Image
from saccade.core.errors import ConfigError
from saccade.evaluate.rules import judges
from saccade.evaluate.rules.judges import Detection, cut_out


@pytest.fixture(scope="module")
def picture() -> Image:
    return Image(np.random.default_rng(0).integers(0, 255, (40, 70, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def build(kind):
        if kind not in made:
            made[kind] = str(getattr(judge_checkpoints, kind)(tmp_path_factory.mktemp(kind)))
        return made[kind]

    return build


def test_mask2former_agrees_with_the_port_s_own_instances(folder, picture):
    """Same labels and nearly the same scores as transformers' post-processing, which takes masks at 384 x 384."""
    from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

    found = judges.load_detector(folder("mask2former"))(picture)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder("mask2former")).eval()
    processor = AutoImageProcessor.from_pretrained(folder("mask2former"))
    inputs = processor(images=[Picture.fromarray(picture.pixels)], return_tensors="pt")
    with torch.no_grad():
        (theirs,) = processor.post_process_instance_segmentation(model(**inputs), 0.0, target_sizes=[(40, 70)])
    wanted = sorted(
        ((model.config.id2label[one["label_id"]], one["score"]) for one in theirs["segments_info"]), key=lambda x: -x[1]
    )
    assert [one.name for one in found] == [name for name, _ in wanted]
    np.testing.assert_allclose([one.score for one in found], [score for _, score in wanted], atol=0.03)
    assert len({one.name for one in found}) > 1, "else nothing was compared"
    for one in found:
        assert one.mask.shape == (40, 70) and one.mask.dtype == bool
        rows, columns = np.nonzero(one.mask)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_masks_do_not_cover_what_was_padded():
    """Logits 4 x 8 for a padded 32 x 64, of which 32 x 40 is the picture: the right 3/8 are cut off."""
    logits = torch.full((1, 1, 4, 8), -1.0)
    logits[..., 5:] = 1.0  # only where there is padding
    mask = torch.zeros(1, 32, 64)
    mask[:, :, :40] = 1
    inputs = {"pixel_values": torch.zeros(1, 3, 32, 64), "pixel_mask": mask}
    out = judges.Mask2FormerDetector._at_size(logits, inputs, (16, 20))
    assert out.shape == (1, 16, 20) and (out[..., :18] < 0).all()


def test_other_detectors_give_boxes_in_pixels(folder, picture):
    found = judges.load_detector(folder("detr"))(picture)
    assert found and {one.name for one in found} <= set(judge_checkpoints.COCO_LIKE)
    assert all(found[i].score >= found[i + 1].score for i in range(len(found) - 1))
    for one in found:
        x1, y1, x2, y2 = one.box
        assert -35 < x1 < x2 < 105 and -20 < y1 < y2 < 60 and one.mask is None


def test_objects_are_cut_out_on_grey():
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :, 0] = 200
    mask = np.zeros((10, 20), bool)
    mask[2:4, 5:9] = True
    cut = np.asarray(cut_out(Image(pixels), Detection("cat", 1.0, (4.0, 2.0, 10.0, 6.0), mask)))
    assert cut.shape == (4, 6, 3)
    assert (cut[:2, 1:5] == (200, 0, 0)).all() and (cut[2:] == 153).all() and (cut[:, 0] == 153).all()
    whole = np.asarray(cut_out(Image(pixels), Detection("cat", 1.0, (4.0, 2.0, 10.0, 6.0))))
    assert (whole == (200, 0, 0)).all()


def test_colours_are_the_nearest_of_three_phrases_each(folder, picture):
    """The mean of three unit embeddings a colour, made a unit again, against the picture's."""
    clip = judges.load_clip(folder("clip"))
    one = Detection("cat", 1.0, (3.0, 4.0, 40.0, 30.0))
    scores = []
    for colour in judges.COLOURS:
        phrases = [f"a photo of a {colour} cat", f"a photo of a {colour}-colored cat", f"a photo of a {colour} object"]
        mean = sum(clip.texts([phrase])[0] for phrase in phrases) / 3
        scores.append(float(clip.images([cut_out(picture, one)])[0] @ mean / mean.norm()))
    expected = judges.COLOURS[int(np.argmax(scores))]
    colours = judges.load_colours(folder("clip"))
    assert colours(picture, [one], "cat") == [expected] and colours(picture, [], "cat") == []


def test_cosines_are_those_of_unit_embeddings_and_long_prompts_are_cut(folder, picture):
    clip = judges.load_clip(folder("clip"))
    assert -1 <= clip.cosine(picture, "a red cat") <= 1
    assert clip.cosine(picture, "a red cat") != clip.cosine(picture, "a blue dog")
    assert clip.cosine(picture, "a red cat " * 100) == pytest.approx(clip.cosine(picture, "a red cat " * 200))


def test_blip_s_probability_is_that_of_its_first_answer_token(folder, picture):
    """Picture, question and the decoder's start token through the three networks: P(yes) / (P(yes) + P(no))."""
    from transformers import AutoImageProcessor, AutoTokenizer, BlipForQuestionAnswering

    name = folder("blip")
    model, words = BlipForQuestionAnswering.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
    pixels = AutoImageProcessor.from_pretrained(name)(images=[Picture.fromarray(picture.pixels)], return_tensors="pt")
    questions = ["is there a cat ?", "is there the red dog looking at a bench ?"]
    wanted = []
    for question in questions:
        with torch.no_grad():
            seen = model.text_decoder(
                input_ids=torch.tensor([[model.decoder_start_token_id]]),
                encoder_hidden_states=_question(model, pixels, words, question),
            )
        chance = seen.logits[0, 0].softmax(0)
        yes, no = (float(chance[words.convert_tokens_to_ids(word)]) for word in ("yes", "no"))
        wanted.append(yes / (yes + no))
    answers = judges.load_answers(name)
    assert answers(picture, questions) == pytest.approx(wanted, abs=1e-5)
    assert abs(wanted[0] - wanted[1]) > 1e-4, "else the question was not read"


def _question(model, pixels, words, question):
    seen = model.vision_model(pixel_values=pixels["pixel_values"])[0]
    tokens = words(question, return_tensors="pt")
    return model.text_encoder(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], encoder_hidden_states=seen
    )[0]


def test_chat_models_are_asked_for_yes_or_no(folder, picture):
    answers = judges.load_answers(folder("chat"))
    first = answers(picture, ["is there a cat?", "is there a dog?"])
    assert all(0 < chance < 1 for chance in first) and first[0] != first[1]
    other = answers(Image(255 - picture.pixels), ["is there a cat?"])
    assert other[0] != first[0], "the picture matters"


def test_answers_are_remembered_by_picture_and_question(picture):
    asked = []

    def answers(image, questions):
        asked.extend(questions)
        return [len(question) / 10 for question in questions]

    remembered = judges.Remembered(answers)
    assert remembered(picture, ["a", "bb", "a"]) == [0.1, 0.2, 0.1]
    assert remembered(Image(picture.pixels.copy()), ["bb", "ccc"]) == [0.2, 0.3]
    assert asked == ["a", "bb", "ccc"]
    remembered(Image(picture.pixels[:20].copy()), ["a"])
    assert asked == ["a", "bb", "ccc", "a"]


@pytest.mark.parametrize("load", [judges.load_detector, judges.load_colours, judges.load_clip, judges.load_answers])
def test_a_missing_or_wrong_checkpoint_is_one_line_that_names_the_field(load, tmp_path):
    for name in ("", str(tmp_path), "nobody/nothing"):
        with pytest.raises(ConfigError) as caught:
            load(name, "some_field")
        message = str(caught.value)
        assert message.startswith("some_field must name a") and "\n" not in message and repr(name) in message
