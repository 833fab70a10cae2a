"""Loading and saving: settings, formats that plain transformers reads, and one line for what cannot be loaded."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from policies.hf.plain import full_logits, plain_logp
from policies.hf.scenes import picture, prompts, rolled_out
from saccade.core.config import from_dict, overlay, to_dict
from saccade.core.content import Text
from saccade.core.errors import ConfigError
from saccade.core.policy import Sampling
from saccade.policies.lora import LoRA
from saccade.policies.token.hf import HFVisionLanguage


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_policy_reloads_with_plain_transformers_to_equal_logits(make, tmp_path):
    policy = make()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.05)
    policy.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)
    assert tokenizer.chat_template == policy.reader.template
    assert processor.to_dict() == policy.family.image_processor.to_dict()
    chunk = policy.reader.prompt(prompts()[2].content)
    ours = full_logits(policy, chunk.ids, list(chunk.images))
    policy.model = model
    assert full_logits(policy, chunk.ids, list(chunk.images)).equal(ours)


def test_files_of_the_combined_processor_are_handed_on(folders, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(folders["idefics3"], source)
    wanted = {"processor_class": "Idefics3Processor", "image_seq_len": 4}
    (source / "processor_config.json").write_text(json.dumps(wanted))
    policy = HFVisionLanguage(str(source)).build(torch.device("cpu"))
    policy.save_pretrained(target)
    processor = AutoProcessor.from_pretrained(target)
    assert processor.image_seq_len == 4
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], add_generation_prompt=True)
    image = picture(0)
    out = processor(text=text, images=[image.pixels], return_tensors="pt")
    assert out["input_ids"].shape[1] == len(policy.reader.prompt((image,)).ids)
    # Saving onto the folder the policy came from keeps them.
    policy.save_pretrained(source)
    assert json.loads((source / "processor_config.json").read_text()) == wanted


def test_bfloat16_weights_stay_bfloat16(make, tmp_path):
    policy = make(dtype="bfloat16", lora=LoRA(rank=2))
    policy.save_pretrained(tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


def test_pixel_limits_set_the_number_of_positions(folders):
    """Tokens are 16 x 16 pixels: 64 x 64 pixels are at most 16 of them by the checkpoint, 4 at 32 x 32."""

    def positions(name, **settings):
        policy = HFVisionLanguage(str(folders[name]), **settings).build(torch.device("cpu"))
        return policy.reader.prompt((picture(0, 64, 64),)).images[0].positions

    for name in ("qwen2_5_vl", "qwen3_vl"):
        assert [positions(name), positions(name, max_pixels=32 * 32)] == [16, 4]
        assert positions(name, min_pixels=128 * 128, max_pixels=128 * 128) == 64
    # 2 x 2 tiles and the overview, 4 positions each; or the overview alone.
    assert [positions("idefics3"), positions("idefics3", max_pixels=32 * 32)] == [20, 4]
    with pytest.raises(ConfigError, match="min_pixels cannot be set"):
        positions("idefics3", min_pixels=32 * 32)
    with pytest.raises(ConfigError, match="cannot be set for CLIPImageProcessorPil"):
        positions("llava", max_pixels=32 * 32)


def test_eager_attention_agrees(make):
    policy, other = make(), make(attention="eager")
    assert other.base.config._attn_implementation == "eager"
    batch = rolled_out(policy)
    assert (policy.log_prob(batch).logp - other.log_prob(batch).logp).abs().max() < 1e-4


def test_the_spec_is_plain_data_and_builds_equal_policies(folders):
    spec = HFVisionLanguage(str(folders["idefics3"]), lora=LoRA(rank=2), segments=("think",), max_pixels=1024)
    assert from_dict(to_dict(spec)) == spec
    assert overlay(spec, {"lora.rank": 4, "dtype": "bfloat16"}).lora == LoRA(rank=4)
    one, other = (spec.build(torch.device("cpu"), seed=3).state_dict() for _ in range(2))
    assert all(value.equal(other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "model must be a hub id or a folder"),
        ({"max_pixels": 0}, "max_pixels must be >= 1, got 0"),
        ({"min_pixels": 9, "max_pixels": 4}, "min_pixels must be <= max_pixels = 4, got 9"),
        ({"dtype": "float16"}, "dtype must be float32 or bfloat16, got 'float16'"),
        ({"rows": 0}, "rows must be >= 1, got 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        HFVisionLanguage(**{"model": "some/model", **settings})


def test_what_cannot_be_loaded_is_one_line_with_the_culprit(folders, tmp_path):
    def build(folder):
        HFVisionLanguage(str(folder)).build(torch.device("cpu"))

    with pytest.raises(ConfigError, match="missing': there is no such folder") as error:
        build(tmp_path / "missing")
    one_line(error)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty': its configuration cannot be loaded: .*config\.json") as error:
        build(tmp_path / "empty")
    one_line(error)
    with pytest.raises(ConfigError, match="'nobody/nothing': its configuration cannot be loaded") as error:
        build("nobody/nothing")
    one_line(error)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="architecture 'bert' is not supported; supported are qwen2_vl, ") as error:
        build(tmp_path / "other")
    one_line(error)
    missing = {
        "tokenizer": (["tokenizer.json"], "its tokenizer cannot be loaded"),
        "names": (
            ["tokenizer.json", "tokenizer_config.json"],
            "its tokenizer has no token 5, which",
        ),
        "pixels": (["preprocessor_config.json"], "its image processor cannot be loaded"),
        "weights": (["model.safetensors"], "its weights cannot be loaded"),
    }
    for name, (files, message) in missing.items():
        shutil.copytree(folders["qwen2_5_vl"], tmp_path / name)
        for file in files:
            (tmp_path / name / file).unlink()
        with pytest.raises(ConfigError, match=message) as error:
            build(tmp_path / name)
        one_line(error)
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="its weights cannot be loaded") as error:
        build(tmp_path / "weights")
    one_line(error)


@pytest.mark.parametrize("package", ["transformers", "peft"])
def test_a_missing_extra_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "saccade.policies.token.hf_policy")
    with pytest.raises(ConfigError, match=rf"{package} is not installed: pip install 'saccade\[vlm\]'"):
        HFVisionLanguage("some/model").build(torch.device("cpu"))


def test_incomplete_weights_are_refused(folders, tmp_path):
    folder = tmp_path / "partial"
    shutil.copytree(folders["idefics3"], folder)
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file({k: v for k, v in weights.items() if k != dropped}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"the weights lack 1 tensors, the first is .*q_proj\.weight"):
        HFVisionLanguage(str(folder)).build(torch.device("cpu"))


def test_a_checkpoint_with_sliding_windows_in_every_layer_is_read_as_its_own_forward_pass_reads_it(folders, tmp_path):
    """Answers of twelve tokens: most of them see nothing of the prompt through a window of eight."""
    folder = tmp_path / "sliding"
    shutil.copytree(folders["qwen2_5_vl"], folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(use_sliding_window=True, sliding_window=8, layer_types=["sliding_attention"] * 2)
    (folder / "config.json").write_text(json.dumps(config))
    policy = HFVisionLanguage(str(folder)).build(torch.device("cpu")).double()
    batch = rolled_out(policy, sampling=Sampling(max_actions=12))
    logp = policy.log_prob(batch).logp
    assert (logp - batch.old_logp).abs().max() < 1e-5
    assert (logp - plain_logp(policy, batch)).abs().max() < 1e-9


def test_a_picture_the_processor_refuses_is_named(folders):
    reader = HFVisionLanguage(str(folders["qwen2_5_vl"])).build(torch.device("cpu")).reader
    with pytest.raises(ValueError, match="a picture of 2000 x 2 pixels cannot be used by this model"):
        reader.prompt((picture(0, 2, 2000), Text("?")))
