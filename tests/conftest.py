"""Settings shared by all tests: one thread, no network, shapes checked at run time."""

import os

# Before torch is imported: the number of OpenMP threads is read once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)

# Before saccade is imported: the hook wraps the functions of these packages while they load.
install_import_hook(["saccade.core", "saccade.advantages", "saccade.objectives"], "beartype.beartype")

# The same examples on every run. To look for new ones: pytest --hypothesis-profile explore
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The library's cache folder for this session: nothing is read from or left in the user's own."""
    folder = tmp_path_factory.mktemp("saccade-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SACCADE_CACHE", str(folder))
        yield folder
