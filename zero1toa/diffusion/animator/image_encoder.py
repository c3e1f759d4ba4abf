"""CLIP's vision transformer and its preprocessing: the portrait as prompt tokens.

Written out because ``transformers`` is no dependency, and its image processors differ between versions by up to 0.03
per pixel; the animators were trained on Pillow's bicubic filter.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from zero1toa.diffusion.animator.config import ImageEncoderConfig

SIZE = 224
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess(images: Tensor) -> Tensor:
    """Portraits as CLIP sees them.

    Args:
        images: square, ``[B, H, H, 3]`` in [0, 1].

    Returns:
        ``[B, 3, 224, 224]`` float32 on the device of ``images``.
    """
    pixels = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    resized = [
        np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for picture in pixels
    ]
    scaled = torch.from_numpy(np.stack(resized)).to(images.device).float() / 255
    mean, std = (torch.tensor(values, device=images.device) for values in (_MEAN, _STD))
    return ((scaled - mean) / std).permute(0, 3, 1, 2)


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))  # OpenAI's quick approximation of GELU


class _Layer(nn.Module):
    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config.channels, config.heads)
        self.layer_norm1 = nn.LayerNorm(config.channels)
        self.mlp = _FeedForward(config.channels, config.hidden)
        self.layer_norm2 = nn.LayerNorm(config.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(config.channels))
        self.patch_embedding = nn.Conv2d(3, config.channels, config.patch, stride=config.patch, bias=False)
        self.position_embedding = nn.Embedding((SIZE // config.patch) ** 2 + 1, config.channels)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        return torch.cat([first, patches], 1) + self.position_embedding.weight


class _VisionModel(nn.Module):
    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.channels)  # the checkpoints' own spelling
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.post_layernorm = nn.LayerNorm(config.channels)


class ImageEncoder(nn.Module):
    """CLIP's vision transformer with its projection, named as in its checkpoints."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.vision_model = _VisionModel(config)
        self.visual_projection = nn.Linear(config.channels, config.projection, bias=False)

    def tokens(self, images: Tensor) -> Tensor:
        """All tokens of the last layer ``[B, n, C]`` of preprocessed images, before the final normalisation."""
        vision = self.vision_model
        x = vision.pre_layrnorm(vision.embeddings(images))
        for layer in vision.encoder.layers:  # type: ignore[union-attr]
            x = layer(x)
        return x

    def embedding(self, images: Tensor) -> Tensor:
        """The projected image embedding as a single token ``[B, 1, projection]``."""
        first = self.tokens(images)[:, :1]
        return self.visual_projection(self.vision_model.post_layernorm(first))
