"""Settings and folders that cannot be used end in one line that names them."""

import json
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from saccade.core.config import from_dict, to_dict
from saccade.core.errors import ConfigError
from saccade.policies.denoise.hub import Ancestral, Diffusers
from saccade.policies.denoise.hub_schedule import diffusion, flow
from saccade.policies.denoise.noise import Diffusion, Flow
from saccade.policies.denoise.steps import DDIM, FlowSDE
from saccade.policies.lora import LoRA

CPU = torch.device("cpu")


@pytest.fixture
def altered(folder, tmp_path):
    """A copy of a pipeline's folder, to be damaged."""

    def altered(name="sd1"):
        return shutil.copytree(folder(name), tmp_path / name)

    return altered


def refused(model, **settings):
    with pytest.raises(ConfigError) as caught:
        Diffusers(model=str(model), **settings).build(CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit(file, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "model must be a hub id or a folder, got an empty text"),
        ({"dtype": "float16"}, "dtype must be float32 or bfloat16, got 'float16'"),
        ({"height": 0}, "height must be >= 1, got 0"),
        ({"width": -8}, "width must be >= 1, got -8"),
        ({"text_length": 0}, "text_length must be >= 1, got 0"),
        ({"spacing": "even"}, "spacing must be checkpoint, leading or trailing, got 'even'"),
        ({"embedded_guidance": -1.0}, "embedded_guidance must be >= 0, got -1.0"),
        ({"guidance": -1.0}, "guidance must be >= 0, got -1.0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        Diffusers(**{"model": "somebody/something"} | settings)


def test_specs_travel():
    spec = Diffusers(model="somebody/something", lora=LoRA(rank=4), guidance=4.5, sampler=FlowSDE(6))
    assert from_dict(to_dict(spec)) == spec == pickle.loads(pickle.dumps(spec))


def test_a_spec_loads_nothing_heavy():
    code = (
        "import sys, saccade.policies.denoise.hub; "
        "print([n for n in ('diffusers', 'transformers', 'peft') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["diffusers", "peft"])
def test_a_missing_extra_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [n for n in sys.modules if n.startswith("saccade.policies.denoise.hub_")]:
        monkeypatch.delitem(sys.modules, name)
    message = refused("somebody/something")
    assert message == f"{package} is not installed: pip install 'saccade[generation]'"


def test_the_default_sampler_follows_the_process():
    for process, sampler in ((Flow(3.0), FlowSDE(6)), (Diffusion(), DDIM(6))):
        found, want = Ancestral(6).table(process), sampler.table(process)
        assert found.std.equal(want.std) and found.direction.equal(want.direction)


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument:UserWarning")  # diffusers on hub 1.x
def test_a_folder_that_is_none_is_named(tmp_path):
    assert refused(tmp_path / "nothing").endswith("there is no such folder")
    assert "its model_index.json cannot be loaded" in refused(tmp_path)
    assert "its model_index.json cannot be loaded" in refused("somebody/something-that-is-not-here")


@pytest.mark.parametrize("component", ["vae", "unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_component_that_is_named_but_absent(altered, component):
    where = altered()
    shutil.rmtree(where / component)
    want = f"policy.model {str(where)!r}: the folder has no component {component}, which its model_index.json names"
    assert refused(where) == want


def test_a_component_that_is_not_named(altered):
    where = altered()
    edit(where / "model_index.json", vae=[None, None])
    want = f"policy.model {str(where)!r}: its model_index.json names no vae, which a StableDiffusionPipeline needs"
    assert refused(where) == want


def test_an_unsupported_pipeline(altered):
    where = altered()
    edit(where / "model_index.json", _class_name="PixArtAlphaPipeline")
    message = refused(where)
    assert message.startswith(f"policy.model {str(where)!r}: its pipeline must be one of StableDiffusionPipeline, ")
    assert message.endswith("got PixArtAlphaPipeline")


def test_an_unknown_class_of_component(altered):
    where = altered()
    edit(where / "model_index.json", unet=["os", "system"])
    assert refused(where).endswith("its unet is a os.system, which is not known here")


def test_damaged_weights(altered):
    where = altered()
    file = where / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert f"policy.model {str(where)!r}: its unet " in refused(where)


def test_incomplete_weights(altered):
    where = altered()
    file = where / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.weight"], weights["conv_in.bias"]
    save_file(weights, file, metadata={"format": "pt"})
    assert "unet" in refused(where) and "conv_in" in refused(where)


def test_a_target_that_names_no_layer(folder):
    message = refused(folder("sd1"), lora=LoRA(targets=("to_q", "to_x")))
    assert message.startswith("lora.targets: no linear map is named 'to_x'; the model has ") and "to_q" in message
    policy = Diffusers(model=str(folder("sd1")), lora=LoRA(rank=2, targets=("to_q",))).build(CPU)
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trained and all(".to_q." in name for name in trained)


def test_sizes_that_do_not_fit(folder):
    assert refused(folder("sd1"), height=15) == "policy.height must be a multiple of 2, got 15"
    assert refused(folder("sd3"), width=18) == "policy.width must be a multiple of 4, got 18"
    wide = Diffusers(model=str(folder("sd1")), height=16, width=24).build(CPU)
    assert wide.denoiser.shape == (4, 8, 12)


def test_a_sampler_of_the_other_process(folder):
    assert refused(folder("sd1"), sampler=FlowSDE(4)) == "sampler FlowSDE belongs to a flow, got Diffusion"
    assert refused(folder("sd3"), sampler=DDIM(4)) == "sampler DDIM belongs to a diffusion, got SpacedFlow"


def test_times_that_are_spaced_otherwise(altered):
    where = altered()
    edit(where / "scheduler" / "scheduler_config.json", timestep_spacing="linspace")
    want = "its PNDMScheduler has timestep_spacing=linspace; set policy.spacing to leading or trailing"
    assert refused(where).endswith(want)
    policy = Diffusers(model=str(where), spacing="trailing").build(CPU)
    assert policy.process.grid(4).tolist() == [999, 749, 499, 249, -1]


BETAS = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}
TIMES = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": False,
}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"prediction_type": "flow_prediction"}, "x: its scheduler EulerDiscreteScheduler is not a diffusion"),
        ({"trained_betas": [0.1, 0.2]}, "x: its scheduler EulerDiscreteScheduler is not a diffusion"),
        ({"use_karras_sigmas": True}, "x: its EulerDiscreteScheduler has use_karras_sigmas; set policy.spacing"),
        ({"thresholding": True}, "x: its EulerDiscreteScheduler has thresholding"),
        ({"rescale_betas_zero_snr": True}, "must be v or sample where the last level is pure noise"),
    ],
)
def test_schedulers_that_are_no_plain_diffusion(entries, message):
    with pytest.raises(ConfigError, match=message):
        diffusion(BETAS | entries, "checkpoint", "x")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"_class_name": "DDIMScheduler"}, "x: its scheduler must be FlowMatchEulerDiscreteScheduler, got DDIMSch"),
        ({"use_beta_sigmas": True}, "x: its FlowMatchEulerDiscreteScheduler has use_beta_sigmas"),
        ({"shift_terminal": 0.1}, "x: its FlowMatchEulerDiscreteScheduler has shift_terminal"),
    ],
)
def test_schedulers_that_are_no_plain_flow(entries, message):
    with pytest.raises(ConfigError, match=message):
        flow(TIMES | entries, 16, "x", given=False)


def test_a_clip_is_taken_over():
    assert diffusion(BETAS | {"clip_sample": True, "clip_sample_range": 2.0}, "checkpoint", "x").clip == 2.0
    assert diffusion(BETAS | {"clip_sample": False}, "checkpoint", "x").clip is None
