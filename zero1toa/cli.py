"""The command line. Commands import what they need when they run, so that ``--help`` answers at once.

Errors that the user can mend are one line on stderr and exit code 2; work that failed, such as processes that die again
and again, is one line and 1; Ctrl-C is one line and 130; anything else is our fault and keeps its traceback.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from zero1toa import __version__
from zero1toa.errors import ZeroOneError, ending
from zero1toa.stopping import stopped_as_by_ctrl_c

P = ParamSpec("P")

app = typer.Typer(
    name="zero1toa",
    help="One portrait photo to an animatable 3D head avatar.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
assets_app = typer.Typer(help="External weights: what each is for, its licence and source; install a local file.")
app.add_typer(assets_app, name="assets")


Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Avatar bundle, e.g. outputs/astronaut/avatar.")]
Azimuth = Annotated[float, typer.Option(help="Camera azimuth in degrees; + moves it to the subject's left.")]
Elevation = Annotated[float, typer.Option(help="Camera elevation in degrees; + moves it up.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors a command may raise into one line and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with stopped_as_by_ctrl_c():
                command(*args, **kwargs)
        except (ZeroOneError, OSError, KeyboardInterrupt) as error:
            known = ending(error, "command")
            if known is None:
                raise
            print(known.line, file=sys.stderr)
            raise typer.Exit(known.code) from error

    return wrapped


def _version(value: bool) -> None:
    if value:
        print(f"zero1toa {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@guarded
def generate(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="Image file, or sample:astronaut.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Configuration, e.g. preset=standard loop.iterations=900."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Output folder; outputs/ and the photo's name by default."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with configuration values.")] = None,
    serial: Annotated[bool, typer.Option("--serial", help="Run the plain loop in this process, without Ray.")] = False,
    face: Annotated[int | None, typer.Option(min=0, help="Which face of several, by size; 0 is the largest.")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew in a folder that holds an earlier run.")
    ] = False,
) -> None:
    """Make an animatable avatar of one portrait photo; the same command again continues after a stop."""
    started = time.perf_counter()  # importing is part of what the user waits for
    from zero1toa.commands.generate import generate_avatar
    from zero1toa.commands.photo import photo_name

    place = Path("outputs") / photo_name(photo) if output is None else output
    generate_avatar(
        photo, place, overrides or (), serial=serial, face=face, restart=restart, file=config, started=started
    )


@app.command()
@guarded
def batch(
    portraits: Annotated[
        str, typer.Argument(metavar="PORTRAITS", help="Folder, glob, CSV or JSONL manifest, or webdataset shards.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="Output folder, path or fsspec URL.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Configuration, e.g. preset=standard distributed.refiners=8."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with configuration values.")] = None,
    name: Annotated[str, typer.Option(help="Name of the batch; the output's by default.")] = "",
    restart: Annotated[bool, typer.Option("--restart", help="Forget what earlier runs made in the output.")] = False,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Start Ray's dashboard.")] = False,
) -> None:
    """Make the avatars of many portraits; the same command again continues. Exit code 3 if some portraits failed."""
    from zero1toa.commands.batch import make_batch

    code = make_batch(portraits, output, overrides or (), file=config, name=name, restart=restart, dashboard=dashboard)
    if code:
        raise typer.Exit(code)


@app.command()
@guarded
def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Configuration, e.g. preset=paper diffusion.backbone=aniportrait."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with configuration values.")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the plan as JSON.")] = None,
) -> None:
    """Print what a configuration will do and cost: clips, unlocking, updates, predicted time and memory; no GPU."""
    from zero1toa.commands.plan import print_plan

    print_plan(overrides or (), config, json)


@app.command()
@guarded
def simulate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. portraits=1000 refiners=64 window=1."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON.")] = None,
) -> None:
    """Simulate a batch: how long it takes on a number of GPUs, and how busy they are; neither Ray nor a GPU."""
    from zero1toa.commands.simulate import print_simulation

    print_simulation(overrides or (), json)


@app.command()
@guarded
def render(
    bundle: Bundle,
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG file to write.")],
    azimuth: Azimuth = 0.0,
    elevation: Elevation = 0.0,
    expression: Annotated[str, typer.Option(help="ARKit weights, e.g. jawOpen=0.8,eyeBlinkLeft=1.")] = "",
    yaw: Annotated[float, typer.Option(help="Head yaw in degrees; + turns to the subject's left.")] = 0.0,
    pitch: Annotated[float, typer.Option(help="Head pitch in degrees; + looks up.")] = 0.0,
    roll: Annotated[float, typer.Option(help="Head roll in degrees; + tips to the subject's left.")] = 0.0,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Side in pixels.")] = 512,
    transparent: Annotated[bool, typer.Option("--transparent", help="Transparent background.")] = False,
    device: Device = "auto",
) -> None:
    """Render one picture of an avatar."""
    from zero1toa.commands.render import render_picture

    render_picture(
        bundle,
        output,
        azimuth=azimuth,
        elevation=elevation,
        expression=expression,
        head=(yaw, pitch, roll),
        size=size,
        transparent=transparent,
        device=device,
    )


@app.command()
@guarded
def animate(
    bundle: Bundle,
    motion: Annotated[
        str, typer.Option(help="ARKit .csv or .npz, TalkSHOW .pkl or .npy, a video, or a shipped motion's name.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="MP4 file to write.")],
    azimuth: Azimuth = 0.0,
    elevation: Elevation = 0.0,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Side in pixels.")] = 512,
    fps: Annotated[float | None, typer.Option(help="Frames per second; the motion's own by default.")] = None,
    device: Device = "auto",
) -> None:
    """Drive an avatar with a motion and write a video."""
    from zero1toa.commands.render import animate_video

    animate_video(bundle, motion, output, azimuth=azimuth, elevation=elevation, size=size, fps=fps, device=device)


@app.command()
@guarded
def evaluate(
    bundle: Bundle,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the figures as JSON.")] = None,
    device: Device = "auto",
) -> None:
    """Measure an avatar: likeness to its portrait, and control as MediaPipe sees it on renders."""
    from zero1toa.commands.evaluate import evaluate as run

    run(bundle, output, device)


@app.command("export-dataset")
@guarded
def export_dataset(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Output folder of generate or batch, path or URL.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="DIR", help="Folder to export to, path or URL.")],
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Every version of a clip that is still there, not the newest alone.")
    ] = False,
    renders: Annotated[
        bool, typer.Option("--renders", help="With the render that each clip was refined from.")
    ] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Of a batch, unfinished avatars too.")] = False,
    shard_mb: Annotated[int, typer.Option(min=1, help="Largest size of a shard in megabytes.")] = 256,
) -> None:
    """Export refined clips with cameras, poses and landmarks as webdataset shards."""
    from zero1toa.commands.export_dataset import export

    export(source, output, all_versions=all_versions, renders=renders, unfinished=unfinished, shard_mb=shard_mb)


@app.command("verify-dataset")
@guarded
def verify_dataset(
    dataset: Annotated[str, typer.Argument(metavar="DIR", help="An exported dataset, path or URL.")],
) -> None:
    """Compare the shards of an exported dataset with their checksums."""
    from zero1toa.commands.export_dataset import check

    check(dataset)


@assets_app.callback(invoke_without_command=True)
@guarded
def _assets(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from zero1toa.commands.assets import list_assets

        list_assets()


@assets_app.command("list")
@guarded
def assets_list() -> None:
    """List every external weight and whether this machine has it."""
    from zero1toa.commands.assets import list_assets

    list_assets()


@assets_app.command("install")
@guarded
def assets_install(
    name: Annotated[str, typer.Argument(help="Asset name, as `zero1toa assets` lists it.")],
    file: Annotated[Path, typer.Argument(help="The file you downloaded.")],
) -> None:
    """Check a downloaded file and copy it into the asset folder."""
    from zero1toa.commands.assets import install_asset

    install_asset(name, file)


@app.command()
@guarded
def doctor() -> None:
    """Say what this machine uses for each part, what is missing and what to do."""
    from zero1toa.commands.doctor import print_diagnosis

    print_diagnosis()


def main() -> None:
    """Entry point of the ``zero1toa`` command."""
    app()


if __name__ == "__main__":
    main()
