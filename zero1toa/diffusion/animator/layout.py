"""How the released checkpoints name what our modules hold.

Names are looked up from our side: for each entry of a module's state, the entry or entries of the checkpoint that make
it. That way nothing can be forgotten: an entry without its source is missing, a source without an entry is left over.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(attentions\.\d+|cross_attn\d)\.(norm\d|attn\d|ff)\.", r"\1.transformer_blocks.0.\2."),
        (r"(motion_modules\.\d+)\.", r"\1.temporal_transformer."),
        (r"temporal_transformer\.attn1\.", "temporal_transformer.transformer_blocks.0.attention_blocks.0."),
        (r"temporal_transformer\.attn2\.", "temporal_transformer.transformer_blocks.0.attention_blocks.1."),
        (r"temporal_transformer\.norm1\.", "temporal_transformer.transformer_blocks.0.norms.0."),
        (r"temporal_transformer\.norm2\.", "temporal_transformer.transformer_blocks.0.norms.1."),
        (r"temporal_transformer\.norm3\.", "temporal_transformer.transformer_blocks.0.ff_norm."),
        (r"temporal_transformer\.ff\.", "temporal_transformer.transformer_blocks.0.ff."),
        (r"\.ff\.proj\.", ".ff.net.0.proj."),
        (r"\.ff\.out\.", ".ff.net.2."),
        (r"\.to_out\.", ".to_out.0."),
        (r"\.pe$", ".pos_encoder.pe"),
        (r"^(down_blocks\.\d)\.resample\.", r"\1.downsamplers.0."),
        (r"^(up_blocks\.\d)\.resample\.", r"\1.upsamplers.0."),
    )
)
_FUSED = {"to_qkv": ("to_q", "to_k", "to_v"), "to_kv": ("to_k", "to_v")}


def released_names(name: str) -> list[str]:
    """Names in a released checkpoint of what we call ``name``; several are stacked along their first dimension."""
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    for fused, parts in _FUSED.items():
        if f".{fused}." in name:
            return [name.replace(f".{fused}.", f".{part}.") for part in parts]
    return [name]


def own_names(name: str) -> list[str]:
    """For modules that are named as their checkpoint is."""
    return [name]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A checkpoint's layout.

    Attributes:
        sources: names in the checkpoint of an entry of our module.
        unneeded: pattern of names that a sound checkpoint may hold without our module having any use for them.
        renamed: pattern and replacement of names that older files spell differently.
    """

    sources: Callable[[str], list[str]] = released_names
    unneeded: str = r"(?!)"
    renamed: tuple[tuple[str, str], ...] = ()


UNET = Layout()
REFERENCE = Layout(
    # What lies behind the last self-attention's input; Follow-Your-Emoji ships only a part of it.
    unneeded=r"up_blocks\.3\.attentions\.2\.(proj_out|transformer_blocks\.0\.(attn1|attn2|norm2|norm3|ff))\..+"
)
GUIDER = Layout()
AUTOENCODER = Layout(
    sources=own_names,
    renamed=(
        (r"(mid_block\.attentions\.0)\.query\.", r"\1.to_q."),
        (r"(mid_block\.attentions\.0)\.key\.", r"\1.to_k."),
        (r"(mid_block\.attentions\.0)\.value\.", r"\1.to_v."),
        (r"(mid_block\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
    ),
)
IMAGE_ENCODER = Layout(sources=own_names, unneeded=r"vision_model\.embeddings\.position_ids")
