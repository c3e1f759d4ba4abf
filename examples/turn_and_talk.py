"""Use an avatar from Python: read a bundle, set its expression, turn the camera, write a picture and a video.

python examples/turn_and_talk.py outputs/astronaut /tmp/astronaut
"""

import sys
from pathlib import Path

import numpy as np

from zero1toa import media
from zero1toa.commands.player import open_player
from zero1toa.head.arkit import coefficients
from zero1toa.motion.reader import load_motion


def main(bundle: Path, output: Path) -> None:
    """Write ``wink.png`` and ``talk.mp4`` into ``output``."""
    player = open_player(bundle, "auto")

    wink = coefficients({"eyeBlinkLeft": 1.0, "mouthSmileLeft": 0.6}).numpy()
    picture = player.render(wink[None], azimuth=20.0, size=512, background=None)[0]
    media.write_png(output / "wink.png", picture)

    talk = load_motion("talk")
    azimuth = 25.0 * np.sin(np.linspace(0.0, 2.0 * np.pi, len(talk)))
    frames = player.frames(talk.coefficients, azimuth, size=512, neck=talk.neck())
    media.write_video(output / "talk.mp4", frames, talk.fps)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
