"""Speed of the portrait animators at their real size, with random weights: each part beside the limit set for it.

    python benchmarks/animator_speed.py --output speed [--models aniportrait] [--parts step refine ...] [--profile]

Nothing is downloaded. Times are medians of CUDA events around a call, after calls that compile and warm up; operations
are the model's own, counted by a pass on torch's ``meta`` device. ``public`` is the same work in the structure of the
public pipelines (see ``public_structure.py``; not of EchoMimic), timed in the same run. Results are printed, and
written to ``animator_speed.json`` after every part.

``--tiny --device cpu`` runs every part on a CPU, to try the script itself.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from figures import Figures
from kernel_profile import kernel_times, profile_text
from public_structure import PublicStructure
from random_animator import NAMES, assemble, count_operations, random_backbone, random_networks, sizes
from torch import Tensor
from torch.utils import _pytree as pytree

from zero1toa.diffusion.animator.backbone import AnimatorBackbone
from zero1toa.diffusion.animator.cache import load_module
from zero1toa.diffusion.animator.networks import LAYOUTS, build_networks
from zero1toa.diffusion.sampling import refine_latents

PARTS = ("ceiling", "attention", "kernels", "load", "step", "vae", "prepare", "refine", "clips", "public")
PUBLIC = ("follow_your_emoji", "aniportrait")  # whose pipelines' structure is known here
STEPS = 25
LIMITS = {
    "step TFLOP/s": ">= 400",
    "inversion TFLOP/s": ">= 400",
    "start-up s": "< 90",
    "refinement s": "<= 3.3",
    "peak GB": "<= 40",
    "public / ours": ">= 2.5",
}


class Bench(Figures):
    """Measures, prints and keeps figures.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        device = torch.device(options.device)
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.steps = 2 if options.tiny else STEPS
        self.size = 64 if options.tiny else 512
        facts = {
            "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
            "frames": options.frames,
            "size": self.size,
        }
        super().__init__(device, options.output / "animator_speed.json", 64, **facts)

    def seconds(self, call: Callable[[], object], repeats: int = 7, warm: int = 2) -> float:
        """Median time of a call."""
        for _ in range(warm):
            call()
        times = []
        for _ in range(1 if self.options.tiny else repeats):
            self.synchronize()
            if self.cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) / 1000)
            else:
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    def forget_peak(self) -> None:
        """Free what nobody holds, and start to count memory anew."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        """Most memory allocated since :meth:`forget_peak`, in GB."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.cuda else 0.0

    def random(self, *shape: int, seed: int = 0) -> Tensor:
        """Uniform in [0, 1]."""
        return torch.rand(shape, generator=torch.Generator(self.device).manual_seed(seed), device=self.device)


class Clip:
    """What one call refines: portraits, maps and clips of several identities."""

    def __init__(self, bench: Bench, clips: int) -> None:
        frames, size = bench.options.frames, bench.size
        self.portrait = bench.random(clips, size, size, 3, seed=1)
        self.maps = (bench.random(clips, frames, size, size, 3, seed=2) * 255).round() / 255
        self.frames = bench.random(clips, frames, size, size, 3, seed=3)


def build(bench: Bench, name: str, variant: str) -> AnimatorBackbone:
    """A backbone that computes as the variant says."""
    compiled = variant == "compiled"
    backbone = random_backbone(name, bench.options.tiny, bench.device, bench.dtype, compiled=compiled)
    if variant == "whole":  # what plain torch.compile makes of the denoiser
        backbone.networks.denoiser = torch.compile(backbone.networks.denoiser, dynamic=False)  # type: ignore[assignment]
    return backbone


def ceiling(bench: Bench) -> None:
    """What the device gives to one large matrix product and one large copy."""
    side = 256 if bench.options.tiny else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=bench.dtype) for _ in range(2))
    bench.note(f"matrix product {side}", 2 * side**3 / bench.seconds(lambda: a @ b, 20, 5) / 1e12, "TFLOP/s")
    values = 1 << (16 if bench.options.tiny else 30)
    source, target = (torch.ones(values, device=bench.device, dtype=bench.dtype) for _ in range(2))
    moved = 2 * source.numel() * source.element_size()
    bench.note("copy, read + written", moved / bench.seconds(lambda: target.copy_(source), 20, 3) / 1e12, "TB/s")


def attention(bench: Bench) -> None:
    """Self-attention with each of torch's kernels, at the shapes of each resolution; also with heads padded to 64."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    config, frames = sizes("aniportrait", bench.options.tiny).denoiser, bench.options.frames
    side = bench.size // 8
    for level, channels in enumerate(config.channels[:3]):
        tokens = (side >> level) ** 2
        for joined, width in itertools.product((1, 2), {channels // config.heads, 64 if level == 0 else 0} - {0}):
            # As the layer has them: queries are a third of a product, heads side by side.
            q, k, v = (
                torch.randn(frames, tokens * times, 3, config.heads, width, device=bench.device, dtype=bench.dtype)[
                    :, :, 0
                ].transpose(1, 2)
                for times in (1, joined, joined)
            )
            operations = 4 * frames * tokens * tokens * joined * channels
            for kernel in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "default"):
                title = f"attention {tokens} x {tokens * joined}, width {width}, {kernel.lower()}"
                try:
                    if kernel == "default":
                        spent = bench.seconds(lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v))
                    else:
                        with sdpa_kernel(getattr(SDPBackend, kernel)):
                            spent = bench.seconds(lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v))
                except RuntimeError as error:
                    print(f"{title}: {str(error).splitlines()[0]}")
                    continue
                bench.note(title, operations / spent / 1e12, "TFLOP/s")


def kernels(bench: Bench) -> None:
    """The package's own kernels beside torch's, at the shapes of each resolution with guidance."""
    from zero1toa.diffusion.animator import fused
    from zero1toa.diffusion.animator.acceleration import attention_kernels
    from zero1toa.diffusion.animator.attention import KeyValue, SelfAttention
    from zero1toa.diffusion.animator.blocks import ResnetBlock
    from zero1toa.diffusion.animator.config import MOTION_HEADS
    from zero1toa.diffusion.animator.kernels import layers
    from zero1toa.diffusion.animator.motion import TemporalAttention

    if not bench.cuda:
        print("kernels: only on CUDA")
        return
    config, frames, side = sizes("aniportrait", bench.options.tiny).denoiser, bench.options.frames, bench.size // 8

    def gated_by_torch(x: Tensor) -> Tensor:
        return x[..., : x.shape[-1] // 2] * F.gelu(x[..., x.shape[-1] // 2 :])

    def compare(title: str, own: Callable[[], Tensor], torchs: Callable[[], Tensor]) -> None:
        outputs = []
        for label, call in (("own", own), ("torch", torchs)):
            replayed = torch.cuda.CUDAGraph()
            call()
            with torch.cuda.graph(replayed):
                outputs.append(call())
            bench.note(f"{title}, {label}", bench.seconds(replayed.replay) * 1000, "ms")
        error = float((outputs[0] - outputs[1]).float().norm() / outputs[1].float().norm())
        bench.note(f"{title}, relative difference", error, "")

    for level, channels in enumerate(config.channels):
        tokens, shape = (side >> level) ** 2, f"{side >> level}² x {channels}"

        def values(*size: int) -> Tensor:
            return torch.randn(*size, device=bench.device, dtype=bench.dtype)

        x = values(2 * frames, side >> level, side >> level, channels).permute(0, 3, 1, 2)
        group, row = (make.to(bench.device, bench.dtype).requires_grad_(False) for make in (
            torch.nn.GroupNorm(config.groups, channels), torch.nn.LayerNorm(channels)))  # fmt: skip
        block = ResnetBlock(channels, channels, channels, config.groups).to(bench.device, bench.dtype)
        block.to(memory_format=torch.channels_last).requires_grad_(False)
        fused.merge_patches(block)
        compare(f"group norm, SiLU, convolution {shape}",
                lambda x=x, b=block: fused.normalise_and_convolve(b.norm1, b.conv1, x, None),
                lambda x=x, b=block: F.conv2d(F.silu(b.norm1(x)), b.conv1.weight, padding=1))  # fmt: skip
        compare(f"group norm and SiLU {shape}", lambda x=x, n=group: layers.group_norm(x, n, activate=True),
                lambda x=x, n=group: F.silu(n(x)))  # fmt: skip
        change, read = values(2 * frames, tokens, channels), values(2 * frames, tokens, channels)
        compare(f"sum and layer norm {shape}", lambda x=read, n=row, c=change: layers.add_norm(x.clone(), n, c),
                lambda x=read, n=row, c=change: n(x.clone() + c))  # fmt: skip
        wide = values(2 * frames, tokens, 8 * channels)
        gated, first = wide[..., : 4 * channels].contiguous(), torch.nn.Linear(channels, 8 * channels).to(x)
        first.requires_grad_(False)

        def gate(x: Tensor = wide, y: Tensor = gated) -> Tensor:
            layers.gate(x, y)
            return y

        def product_and_gate(x: Tensor = change, f: torch.nn.Linear = first, y: Tensor = gated) -> Tensor:
            layers.gated_product(x, f, y)
            return y

        compare(f"gate {shape}", gate, lambda x=wide: gated_by_torch(x))
        if layers.takes_gated_product(change, first):
            compare(f"product and gate {shape}", product_and_gate, lambda x=change, f=first: gated_by_torch(f(x)))
        square, sums = torch.nn.Linear(channels, channels).to(x).requires_grad_(False), torch.empty_like(read)
        if layers.takes_product_norm(change, square):
            compare(f"product, sum and layer norm {shape}",
                    lambda x=change, f=square, n=row, t=read, s=sums: layers.product_norm(x, f, n, t, sums=s)[1],
                    lambda x=change, f=square, n=row, t=read: n(t + f(x)))  # fmt: skip
        qkv, layer = values(2 * frames, tokens, 3 * channels), TemporalAttention(channels)
        layer.to_qkv, layer.to_out = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]
        layer.pe = torch.zeros(1, frames, 3 * channels, device=bench.device, dtype=bench.dtype)
        compare(f"attention over frames {shape}", lambda x=qkv: layers.temporal_attention(x, frames, MOTION_HEADS),
                lambda x=qkv, m=layer: m(x, frames))  # fmt: skip
        reference = KeyValue(values(1, tokens, channels), values(1, tokens, channels))
        if layers.takes_attention(qkv, reference.keys, config.heads):
            plain = SelfAttention(channels, config.heads)
            with attention_kernels(bench.device):
                compare(f"attention with reference {shape}",
                        lambda x=qkv, r=reference: layers.spatial_attention(x, *r, frames, config.heads),
                        lambda x=qkv, r=reference, m=plain: m.attend(x, r, frames))  # fmt: skip


def evaluations(bench: Bench, backbone: AnimatorBackbone) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """A guided evaluation and one of inversion, both of which have run once."""
    clip = Clip(bench, 1)
    reference = backbone.prepare_reference(clip.portrait, clip.portrait)
    control = backbone.prepare_control(clip.maps)
    side = bench.size // backbone.spec.latent_stride
    latents = torch.randn(1, bench.options.frames, backbone.spec.latent_channels, side, side, device=bench.device)

    def guided() -> Tensor:
        return backbone.predict_guided(latents, 499, reference, control, 3.5)

    def inversion() -> Tensor:
        return backbone.predict(latents, 499, reference, control, conditional=True)

    for call in (guided, inversion):
        call()
    bench.synchronize()
    return guided, inversion


def load(bench: Bench, name: str) -> None:
    """Start-up from checkpoints as they are released, in float32: the first, which converts them, and a later one."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, ZERO1TOA_HOME=folder):
        files = {}
        for part, network in random_networks(name, bench.options.tiny, bench.device, torch.float32).items().items():
            state = {}
            for key, value in network.state_dict().items():
                sources = LAYOUTS[part].sources(key)
                parts = value.cpu().chunk(len(sources)) if len(sources) > 1 else [value.cpu()]
                state.update(zip(sources, (one.clone() for one in parts), strict=True))
            files[part] = Path(folder) / f"{part}.pth"
            torch.save(state, files[part])
        del network, state
        bench.forget_peak()
        for title in ("first start-up from files s", "start-up from files s"):
            began = time.perf_counter()
            networks = build_networks(sizes(name, bench.options.tiny))
            for part, network in networks.items().items():
                load_module(network, [files[part]], LAYOUTS[part], part)
            evaluations(bench, assemble(name, networks, bench.device, bench.dtype, compiled=bench.cuda))
            bench.note(f"{name}: {title}", time.perf_counter() - began, "s", LIMITS["start-up s"])
            del network, networks
            bench.forget_peak()


def step(bench: Bench, name: str, variant: str) -> AnimatorBackbone:
    """Evaluations with and without guidance; returns the backbone, compiled for both."""
    began = time.perf_counter()
    backbone = build(bench, name, variant)
    guided, inversion = evaluations(bench, backbone)
    label = f"{name}, {variant}"
    bench.note(f"{label}: start-up s", time.perf_counter() - began, "s", LIMITS["start-up s"])
    for title, call, guidance in (("step", guided, True), ("inversion", inversion, False)):
        counts = count_operations(name, bench.options.tiny, bench.options.frames, bench.size, guidance)
        operations = sum(counts.values())
        began = time.perf_counter()
        call()
        launched = time.perf_counter() - began
        bench.forget_peak()
        spent = bench.seconds(call)
        bench.note(f"{label}: {title}", spent * 1000, "ms")
        bench.note(f"{label}: {title} TFLOP/s", operations / spent / 1e12, "TFLOP/s", LIMITS[f"{title} TFLOP/s"])
        bench.note(f"{label}: {title}, host time to launch", launched * 1000, "ms")
        bench.note(f"{label}: {title}, peak GB", bench.peak(), "GB", LIMITS["peak GB"])
    if not torch.isfinite(guided()).all():
        raise RuntimeError(f"{label} gives values that are not finite")
    if bench.options.profile and backbone.replay is not None:
        for title, call in (("step", guided), ("inversion", inversion)):
            count, busy, idle = kernel_times(call)
            bench.note(f"{label}: {title}, kernels and copies", count, "")
            bench.note(f"{label}: {title}, time in them", busy, "ms")
            bench.note(f"{label}: {title}, time between them", idle, "ms")
    recorded, backbone.replay = backbone.replay, None
    if recorded is not None:
        bench.note(f"{label} but not recorded as a graph: step", bench.seconds(guided) * 1000, "ms")
        bench.note(f"{label} but not recorded as a graph: inversion", bench.seconds(inversion) * 1000, "ms")
    if bench.options.profile:
        text = profile_text(guided, backbone.networks.denoiser, bench.cuda, variant)
        (bench.options.output / f"profile-{name}-{variant}.txt").write_text(text, encoding="utf-8")
    backbone.replay = recorded
    return backbone


@torch.no_grad()
def agreement(bench: Bench, name: str, variants: dict[str, AnimatorBackbone]) -> None:
    """How far guided predictions are from float32's with the same weights, and from the eager variant's."""
    clip, eager = Clip(bench, 1), variants["eager"]
    reference = eager.prepare_reference(clip.portrait, clip.portrait)
    given = eager.encode(clip.frames), eager.prepare_control(clip.maps).features, reference.layers
    level = torch.full((1,), 499, device=bench.device)
    outputs = {variant: one.evaluate(given[0], level, *given[1:], "both") for variant, one in variants.items()}
    exact = copy.copy(eager)
    exact.networks = copy.deepcopy(eager.networks)
    exact.networks.denoiser.float()
    exact._dtype = torch.float32
    latents, features, contexts = pytree.tree_map(torch.Tensor.float, given)
    with torch.backends.cudnn.flags(allow_tf32=False):
        expected = exact.evaluate(latents, level, features, contexts, "both")
    for variant, output in outputs.items():
        error = float((output - expected).norm() / expected.norm())
        bench.note(f"{name}: relative difference of {variant} to float32", error, "")
        if variant != "eager":
            error = float((output - outputs["eager"]).norm() / outputs["eager"].norm())
            bench.note(f"{name}: relative difference of {variant} to eager", error, "")


def vae(bench: Bench, name: str, backbone: AnimatorBackbone) -> None:
    """The image autoencoder on a clip."""
    clip = Clip(bench, 1)
    began = time.perf_counter()
    latents = backbone.encode(clip.frames)
    backbone.decode(latents)
    bench.synchronize()
    bench.note(f"{name}: first encode and decode", time.perf_counter() - began, "s")
    bench.forget_peak()
    bench.note(f"{name}: encode", bench.seconds(lambda: backbone.encode(clip.frames)) * 1000, "ms")
    bench.note(f"{name}: decode", bench.seconds(lambda: backbone.decode(latents)) * 1000, "ms")
    bench.note(f"{name}: autoencoder, peak GB", bench.peak(), "GB")


def prepare(bench: Bench, name: str, backbone: AnimatorBackbone) -> None:
    """What is done once for an identity or a clip."""
    clip = Clip(bench, 1)
    spent = bench.seconds(lambda: backbone.prepare_reference(clip.portrait, clip.portrait))
    bench.note(f"{name}: reference, once an identity", spent * 1000, "ms")
    spent = bench.seconds(lambda: backbone.prepare_control(clip.maps))
    bench.note(f"{name}: landmark features, once a clip", spent * 1000, "ms")


def refinement(bench: Bench, name: str, backbone: AnimatorBackbone, clips: int) -> float:
    """Encode, invert, denoise, decode, through the project's own loop; seconds."""
    clip = Clip(bench, clips)
    reference = backbone.prepare_reference(clip.portrait, clip.portrait)

    def run() -> Tensor:
        latents, control = backbone.encode(clip.frames), backbone.prepare_control(clip.maps)
        refined = refine_latents(backbone, latents, reference, control, steps=bench.steps, guidance=3.5)
        return backbone.decode(refined)

    run()
    bench.forget_peak()
    spent = bench.seconds(run, repeats=3, warm=0)
    bench.note(f"{name}: refinement of {clips} s", spent, "s", LIMITS["refinement s"] if clips == 1 else "")
    bench.note(f"{name}: refinement of {clips}, peak GB", bench.peak(), "GB", LIMITS["peak GB"])
    return spent


def public(bench: Bench, name: str) -> float:
    """The same refinement in the structure of the public pipelines, eager and in half precision; seconds."""
    dtype = torch.float16 if bench.cuda else torch.float32
    backbone = random_backbone(name, bench.options.tiny, bench.device, dtype, compiled=False)
    clip = Clip(bench, 1)
    latents = torch.randn(1, bench.options.frames, 4, bench.size // 8, bench.size // 8, device=bench.device)
    state = backbone.prepare_reference(clip.portrait, clip.portrait), backbone.prepare_control(clip.maps)
    expected = backbone.predict_guided(latents, 499, *state, 3.5)
    pipeline = PublicStructure(backbone, bench.options.frames)
    with torch.no_grad():
        for title, guidance in (("step", 3.5), ("inversion", 1.0)):
            contexts = pipeline.contexts(clip.portrait, guidance != 1.0)
            call = lambda c=contexts, g=guidance: pipeline.predict(latents, 499, c, clip.maps, g)  # noqa: E731
            if guidance != 1.0:
                error = float((call() - expected).norm() / expected.norm())
                bench.note(f"{name}, public structure: relative difference to the package's", error, "")
            spent = bench.seconds(call, 3)
            bench.note(f"{name}, public structure: {title}", spent * 1000, "ms")
            if guidance != 1.0:
                bench.note(f"{name}, public structure: {STEPS} steps", STEPS * spent, "s")
    bench.forget_peak()
    spent = bench.seconds(lambda: pipeline.refine(clip.frames, clip.portrait, clip.maps, bench.steps, 3.5), 3, 1)
    bench.note(f"{name}, public structure: refinement", spent, "s")
    bench.note(f"{name}, public structure: refinement, peak GB", bench.peak(), "GB")
    return spent


def model(bench: Bench, name: str) -> None:
    """All parts of one animator."""
    parts, variants = bench.options.parts, bench.options.variants
    for guided in (True, False):
        counts = count_operations(name, bench.options.tiny, bench.options.frames, bench.size, guided)
        title = f"{name}, {'step' if guided else 'inversion'}: operations"
        bench.note(title, sum(counts.values()) / 1e12, "TFLOP")
        for part, amount in counts.most_common():
            bench.note(f"{title} of {part}", amount / 1e12, "TFLOP")
    if "load" in parts:
        load(bench, name)
    built: dict[str, AnimatorBackbone] = {}
    if "step" in parts:
        for variant in variants:
            built[variant] = step(bench, name, variant)
        if "eager" in built:
            agreement(bench, name, built)
    last = variants[-1]
    backbone = built.pop(last) if last in built else build(bench, name, last)
    built.clear()
    bench.forget_peak()
    if "vae" in parts:
        vae(bench, name, backbone)
    if "prepare" in parts:
        prepare(bench, name, backbone)
    ours = refinement(bench, name, backbone, 1) if "refine" in parts else None
    if "clips" in parts:
        one = ours or refinement(bench, name, backbone, 1)
        for clips in range(2, bench.options.clips + 1):
            more = refinement(bench, name, backbone, clips)
            bench.note(f"{name}: each clip beyond the first, of {clips}", (more - one) / (clips - 1), "s")
    del backbone
    bench.forget_peak()
    if "public" in parts and name in PUBLIC:
        theirs = public(bench, name)
        if ours is not None:
            bench.note(f"{name}: public / ours", theirs / ours, "times", LIMITS["public / ours"])
    bench.forget_peak()


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=("eager", "whole", "compiled"),
        default=["eager", "compiled"],
        help="of the denoiser, the last for what follows: eager, plain torch.compile, and as the package compiles",
    )
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--clips", type=int, default=2, help="most clips in one call")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and pictures, 2 steps")
    parser.add_argument("--profile", action="store_true", help="write tables of a guided step's kernels")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN try its convolutions")
    bench = Bench(parser.parse_args())
    torch.backends.cudnn.benchmark = bench.options.cudnn_benchmark
    options = bench.options
    options.output.mkdir(parents=True, exist_ok=True)
    where = f"{bench.record['device']}, torch {torch.__version__}"
    print(f"{where}, {options.frames} frames at {bench.size}, {bench.dtype}, {bench.record['date']}")
    failed = False
    for title, call in (
        ("ceiling", lambda: ceiling(bench)),
        ("attention", lambda: attention(bench)),
        ("kernels", lambda: kernels(bench)),
    ):
        if title in options.parts:
            call()
            bench.forget_peak()
    for name in options.models:
        try:
            model(bench, name)
        except Exception:  # the other model's figures are still worth having
            traceback.print_exc()
            failed = True
            bench.forget_peak()
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
