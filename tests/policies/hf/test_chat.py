"""Conversations become the tokens that the model's own template and processor would make of them."""

import json
from typing import Any

import pytest
import torch
from transformers import Idefics3Processor

from policies.hf.scenes import picture, prompts, turn
from saccade.core.content import Text, frames_of
from saccade.core.policy import Act
from saccade.core.trajectory import Observation
from saccade.policies.token.chat import IMAGE
from saccade.policies.token.hf import HFVisionLanguage
from saccade.policies.token.record import TokenRecord


def step(reader, text: str, ended: bool = True):
    ids = reader.write(text)
    ids = ids if ended else ids[:-1]
    none = torch.zeros(len(ids))
    return turn(Act((Text(text),), TokenRecord(ids), none, none.bool(), none.long()))


def test_a_prompt_is_the_chat_template_with_pictures_spelled_out(folders):
    """40 x 56 pixels are rounded to multiples of 16, a half to the even one: 32 x 64, that is 2 x 4 tokens."""
    reader = HFVisionLanguage(str(folders["qwen2_5_vl"])).build(torch.device("cpu")).reader
    content = (Text("which digit is in"), picture(0), Text("?"))
    chunk = reader.prompt(content)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nwhich digit is in<|vision_start|>"
        + "<|image_pad|>" * 8
        + "<|vision_end|>?<|im_end|>\n<|im_start|>assistant\n"
    )
    expected = torch.tensor(reader.tokenizer(text)["input_ids"])
    assert chunk.images[0].size == (2, 4)
    assert torch.where(chunk.ids == IMAGE, reader.family.image_token, chunk.ids).equal(expected)


def test_idefics_prompts_equal_its_own_processor(folders):
    policy = HFVisionLanguage(str(folders["idefics3"])).build(torch.device("cpu"))
    reader = policy.reader
    processor: Any = Idefics3Processor(
        reader.family.image_processor, reader.tokenizer, image_seq_len=4, chat_template=reader.template
    )
    for prompt in prompts():
        parts, pictures = [], []
        for part in prompt.content:
            if isinstance(part, Text):
                parts.append({"type": "text", "text": part.text})
            else:
                frames = frames_of((part,))
                parts += [{"type": "image"}] * len(frames)
                pictures += frames
        text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        out = processor(text=text, images=pictures or None, return_tensors="pt")
        chunk = reader.prompt(prompt.content)
        assert torch.where(chunk.ids == IMAGE, reader.family.image_token, chunk.ids).equal(out["input_ids"][0])
        if pictures:
            ours = torch.cat([image.tensors["pixel_values"] for image in chunk.images], 1)
            assert ours.equal(out["pixel_values"])


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_equal_those_of_the_model(folders, name):
    policy = HFVisionLanguage(str(folders[name])).build(torch.device("cpu"))
    for prompt in prompts():
        chunk = policy.reader.prompt(prompt.content)
        if not chunk.images:
            continue
        ids = torch.where(chunk.ids == IMAGE, policy.base.config.image_token_id, chunk.ids)[None]
        grid = torch.cat([image.tensors["image_grid_thw"] for image in chunk.images])
        expected, delta = policy.base.model.get_rope_index(ids, (chunk.ids == IMAGE).int()[None], image_grid_thw=grid)
        offsets, after = policy.family.offsets(chunk.ids == IMAGE, chunk.images)
        assert offsets.equal(expected[:, 0])
        assert after == len(chunk.ids) + int(delta)


def test_later_context_extends_earlier_context_as_the_template_has_it(make):
    """Prompt, answer and observation one after another are the template's rendering of the whole conversation."""
    reader = make().reader
    one, other = picture(0), picture(1, 32, 32)
    content, answer = (Text("which digit ?"), one), Observation((other, Text("look again")))
    first = step(reader, "3")
    ids = torch.cat([reader.prompt(content).ids, first.record.ids, reader.observe(first, answer).ids])
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "which digit ?"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "3"}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "look again"}]},
    ]
    text = reader.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    start, middle, rest = text.split(reader.family.placeholder)
    first_picture, second_picture = (reader.family.picture(image.pixels) for image in (one, other))
    text = start + first_picture.text + middle + second_picture.text + rest
    if reader.family.axes == 1:
        # This template writes "Assistant: " before an answer and "Assistant:" where one is to be given.
        text = text.replace("Assistant: 3", "Assistant:3")
    assert reader.tokenizer.decode(torch.where(ids == IMAGE, reader.family.image_token, ids)) == text
    assert (ids == IMAGE).sum() == first_picture.positions + second_picture.positions


def test_an_answer_that_was_cut_off_is_closed_once(make):
    reader = make().reader
    answer = Observation((Text("go on"),))
    closed, cut = step(reader, "three"), step(reader, "three", ended=False)
    one, other = (torch.cat([s.record.ids, reader.observe(s, answer).ids]) for s in (closed, cut))
    assert one.equal(other)


def test_a_system_message_comes_first(make):
    reader = make(system="You are curt .").reader
    text = reader.text(reader.prompt((Text("which digit ?"),)).ids)
    assert 0 <= text.find("You are curt .") < text.find("which digit ?")
    assert "helpful" not in text


def test_a_template_in_the_old_place_is_found_and_none_means_plain_text(folders, tmp_path):
    source = folders["qwen2_5_vl"]
    for file in source.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    spec = HFVisionLanguage(str(tmp_path))
    plain = spec.build(torch.device("cpu")).reader
    assert plain.text(plain.prompt((Text("which digit ?"),)).ids) == "which digit ?\n"
    assert plain.end == plain.tokenizer.eos_token_id
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0]['role'] }}!"}))
    assert spec.build(torch.device("cpu")).reader.template == "{{ messages[0]['role'] }}!"


def test_content_is_read_once_while_it_is_kept(make, monkeypatch):
    reader = make().reader
    contents = [prompt.content for prompt in prompts()]
    chunks = [reader.prompt(content) for content in contents]
    assert [reader.prompt(content) for content in contents] == chunks
    monkeypatch.setattr(reader._recent, "limit", 0)
    reader.prompt((Text("another"),))
    assert reader.prompt(contents[0]) is not chunks[0]
    assert reader.prompt(contents[0]).ids.equal(chunks[0].ids)
