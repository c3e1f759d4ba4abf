"""Generation on a CUDA device gives the avatar that it gives on the CPU."""

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_portrait

from zero1toa.avatar.bundle import read_bundle
from zero1toa.evaluation.image_metrics import psnr
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.head.arkit import coefficients
from zero1toa.head.registry import load_head
from zero1toa.symgen.loop import generate_serial

SIZE = 128


@pytest.mark.gpu
def test_generation_on_cuda_equals_generation_on_the_cpu(tmp_path):
    """Clips, requests, training, checkpoints, previews and bundle, all on the device; and the player there."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    head = load_head("canonical")
    pictures = {}
    for device, backend in (("cpu", "torch"), ("cuda", "gsplat")):
        growth = ("density.every=4", "density.start=4", "density.gradient=1e9")
        config = tiny_config(f"device={device}", f"render.backend={backend}", *growth)
        result = generate_serial(tiny_portrait(), config, tmp_path / device, head=head)
        assert result.iterations == 12
        assert result.refined == result.requested == 6
        player = AvatarPlayer(read_bundle(result.bundle, head), head, device, backend)
        arkit = torch.stack([coefficients({}), coefficients({"jawOpen": 0.8, "eyeBlinkLeft": 1.0})]).numpy()
        pictures[device] = np.concatenate(player.render(arkit, azimuth=np.array([0.0, 35.0]), size=SIZE))
    assert pictures["cpu"].std() > 10  # there is a head in them
    assert psnr(pictures["cuda"], pictures["cpu"]) > 40
