"""Generation on a CUDA device gives the avatar that it gives on the CPU, and does not wait for the device."""

import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_portrait

from zero1toa.avatar.bundle import read_bundle
from zero1toa.errors import ZeroOneError
from zero1toa.evaluation.image_metrics import psnr
from zero1toa.evaluation.playback import AvatarPlayer
from zero1toa.head.arkit import coefficients
from zero1toa.head.registry import load_head
from zero1toa.storage import Storage
from zero1toa.symgen.loop import generate_serial
from zero1toa.symgen.reconstruct import Reconstruction

SIZE = 128
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def trainer_on(device: str, *overrides: str) -> Reconstruction:
    """A trainer whose two clips of noise are there already."""
    clips = {}
    trainer = Reconstruction(
        tiny_portrait(), tiny_config(*overrides), load_head("canonical"), avatar_id="a",
        fetch=lambda key, _: (clips[key], len(clips[key])), device=device,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(2):
        request = trainer.request()
        assert request is not None
        clips[request.key] = rng.integers(0, 256, request.frames.shape, np.uint8)
        trainer._install(request.key, 1)
    return trainer


def test_generation_on_cuda_equals_generation_on_the_cpu(tmp_path):
    """Clips, requests, training, checkpoints, previews and bundle, all on the device; and the player there."""
    head = load_head("canonical")
    pictures, curves = {}, {}
    for device, backend in (("cpu", "torch"), ("cuda", "gsplat")):
        growth = ("density.every=4", "density.start=4", "density.gradient=1e9")
        config = tiny_config(f"device={device}", f"render.backend={backend}", *growth)
        result = generate_serial(tiny_portrait(), config, tmp_path / device, head=head)
        assert result.iterations == 12
        assert result.refined == result.requested == 6
        curves[device] = [(point["iteration"], point["total"]) for point in result.losses]
        player = AvatarPlayer(read_bundle(result.bundle, head), head, device, backend)
        arkit = torch.stack([coefficients({}), coefficients({"jawOpen": 0.8, "eyeBlinkLeft": 1.0})]).numpy()
        pictures[device] = np.concatenate(player.render(arkit, azimuth=np.array([0.0, 35.0]), size=SIZE))
    assert pictures["cpu"].std() > 10  # there is a head in them
    assert psnr(pictures["cuda"], pictures["cpu"]) > 40
    # A device's losses are read late, and none is lost.
    assert [iteration for iteration, _ in curves["cuda"]] == list(range(1, 13))
    assert np.array(curves["cuda"]) == pytest.approx(np.array(curves["cpu"]), rel=0.02)


@pytest.mark.parametrize("additions", [(), ("avatar.facing_only=true", "avatar.keep_margins=true")])
def test_a_step_waits_for_the_device_once(additions):
    """For the rasteriser's count of splats."""
    trainer = trainer_on("cuda", "loop.iterations=100", *additions)
    for _ in range(6):  # what is computed once for a clip
        trainer.step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        for _ in range(4):
            with warnings.catch_warnings(record=True) as waits:
                warnings.simplefilter("always")
                trainer.step()
            named = [f"{wait.filename}:{wait.lineno}" for wait in waits if "synchroniz" in str(wait.message)]
            assert len(named) <= 1, named
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_loss_that_is_not_finite_is_told_before_anything_is_kept(tmp_path):
    trainer = trainer_on("cuda")
    trainer.step()
    trainer._loss.config.l1 = float("inf")
    trainer.step()
    with pytest.raises(ZeroOneError, match="the loss of iteration 2 is"):
        trainer.checkpoint(Storage(tmp_path), "state")
    assert not list(tmp_path.iterdir())


def test_colours_are_solved_for_on_cuda_as_on_the_cpu():
    colors = []
    for device in ("cpu", "cuda"):
        given = ("avatar.project_portrait=true", "avatar.opacity=0.9", "loop.portrait_share=1.0")
        trainer = Reconstruction(
            tiny_portrait(), tiny_config(*given), load_head("canonical"), avatar_id="a", fetch=None, device=device
        )
        colors.append(trainer.gaussians.colors.detach().cpu())
    assert float((colors[0] - colors[0].mean(0)).abs().max()) > 0.1
    assert float((colors[1] - colors[0]).abs().mean()) < 1e-4
    assert float((colors[1] - colors[0]).abs().max()) < 0.02
