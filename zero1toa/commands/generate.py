"""``zero1toa generate``: one photo to one avatar, with everything a user sees on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from zero1toa.commands.output import OutputFolder, fingerprint
from zero1toa.commands.photo import open_photo, photo_bytes
from zero1toa.commands.player import open_player
from zero1toa.commands.showcase import Showcase, make_showcase
from zero1toa.config import Config, load, to_dict
from zero1toa.head.protocol import HeadModel
from zero1toa.storage import Storage
from zero1toa.symgen.distillation.distillation import refuse_distribution
from zero1toa.symgen.progress import Progress, ProgressEvent
from zero1toa.symgen.result import GenerationResult
from zero1toa.tracking.console import ConsoleDisplay, duration
from zero1toa.tracking.tracker import Tracker
from zero1toa.types import Portrait


def generate_avatar(
    photo: str,
    output: Path,
    overrides: Sequence[str] = (),
    *,
    serial: bool = False,
    face: int | None = None,
    restart: bool = False,
    file: Path | None = None,
    console: Console | None = None,
    started: float | None = None,
) -> None:
    """Make an avatar, or continue making it; nothing is written before photo, configuration and folder are good.

    Args:
        photo: path, or ``sample:astronaut``.
        output: output folder.
        overrides: configuration values as ``key=value``.
        serial: run the plain loop instead of Ray.
        face: index of the face by size, 0 the largest; None takes the largest and announces the others.
        restart: begin anew in a folder that holds an earlier run.
        file: configuration file, merged before ``overrides``.
        console: where to print.
        started: ``time.perf_counter()`` at which the user began to wait; now by default.

    Raises:
        UserError: for anything the user can mend.
    """
    started = time.perf_counter() if started is None else started
    console = console or Console(highlight=False)
    if face is not None:
        overrides = [*overrides, f"portrait.face={face}"]
    config = load(overrides, file)
    if not serial:
        refuse_distribution(config.distillation)
    with open_photo(photo) as path:
        identity = fingerprint(photo_bytes(path), to_dict(config))
        with OutputFolder(output, identity, restart=restart) as folder:
            if folder.continuing and (output / "metrics.json").is_file():
                console.print(f"{output} is complete; --restart makes it anew", soft_wrap=True)
                return
            _make(path, folder, config, serial, console, started)


def _make(photo: Path, folder: OutputFolder, config: Config, serial: bool, console: Console, started: float) -> None:
    from zero1toa.curriculum.recordings import check_recordings
    from zero1toa.head.registry import load_head
    from zero1toa.portrait.keeping import keep_portrait, kept_portrait

    output = folder.path
    kept = Storage(output)
    with console.status("finding the face and fitting the head"):
        head = load_head(config.head)
        check_recordings(config.curriculum, head)
        portrait = kept_portrait(kept) if folder.continuing else None
        if portrait is None:
            from zero1toa.portrait.pipeline import load_portrait

            portrait = load_portrait(photo, config.portrait, head, config.render.background)
            folder.claim()
            keep_portrait(kept, portrait)
    portrait_seconds = time.perf_counter() - started
    console.print(
        f"portrait: head fitted to {100 * portrait.residual:.2f} % of the face height, yaw {portrait.yaw:+.0f}°",
        soft_wrap=True,
    )
    name = photo.stem
    display = ConsoleDisplay(console)
    with Tracker(output, config.tracking, output.resolve().name, to_dict(config), display.say) as tracker:
        with display:

            def progress(event: ProgressEvent) -> None:
                tracker(event)
                display(event)

            began = time.perf_counter()
            result = _generate(portrait, config, output, progress, head, serial)
            # Training time of earlier sessions, which a continued run adds to what this one took.
            earlier = max(0.0, result.seconds - (time.perf_counter() - began)) if result.continued_from else 0.0
        with console.status("finishing") as status:
            player = open_player(output / "avatar", config.device)
            showcase = make_showcase(
                output, player, portrait, head, config, result, name, portrait_seconds, started - earlier, status.update
            )
        tracker.results(showcase.figures, output / "contact_sheet.png", output / "preview.mp4")
    _summary(output, result, showcase, console)


def _generate(
    portrait: Portrait,
    config: Config,
    output: Path,
    progress: Progress,
    head: HeadModel,
    serial: bool,
) -> GenerationResult:
    if serial:
        from zero1toa.symgen.loop import generate_serial

        return generate_serial(portrait, config, output, progress, head)
    from zero1toa.distributed.generate import generate_distributed

    return generate_distributed(portrait, config, output, progress)


def _summary(output: Path, result: GenerationResult, showcase: Showcase, console: Console) -> None:
    likeness, checks = showcase.likeness, showcase.checks
    console.print(
        f"\n[bold]{output.resolve().name}[/]: {duration(showcase.seconds)} in all; likeness {likeness.psnr:.1f} dB, "
        f"SSIM {likeness.ssim:.2f}, outline IoU {likeness.iou:.2f}; {sum(checks.values())} of {len(checks)} promises "
        "kept",
        soft_wrap=True,
    )
    for promise in (promise for promise, kept in checks.items() if not kept):
        console.print(f"  [yellow]not kept:[/] {promise}", soft_wrap=True)
    for name, what in (
        ("report.html", "everything about it"),
        ("preview.mp4", "turntable and expressions"),
        ("contact_sheet.png", "views and expressions"),
        ("avatar", "the avatar itself"),
    ):
        console.print(f"  {output / name}  [dim]{what}[/]", soft_wrap=True)
    console.print(
        f"next: zero1toa render {output} --azimuth 30 --expression jawOpen=0.8,eyeBlinkLeft=1 -o picture.png",
        soft_wrap=True,
    )
