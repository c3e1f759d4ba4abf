"""Ears as patches of their own, with skin under them.

Hair is lifted from the skin and lies over or behind an ear, so the skin must go on under it. FLAME's ears are part of
its skin: they are cut off, keeping their triangles, and a membrane over their outlines closes the skin.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from zero1toa.head.flame.mesh import Index, Mask


@dataclasses.dataclass(frozen=True)
class EarCut:
    """New vertices and triangles of a mesh whose ears are cut off.

    Attributes:
        blend: every new vertex as a weighted mean of the mesh's own ``[N, V]``, rows sum to one.
        faces: the mesh's triangles ``[F, 3]``; those of the ears have corners of their own on their outlines.
        membrane: triangles of the skin under the ears ``[M, 3]``.
    """

    blend: sp.csr_matrix
    faces: Index
    membrane: Index


def cut_ears(faces: Index, ears: Mask, n_vertices: int, first: int) -> EarCut:
    """Cut the ears off.

    Args:
        faces: ``[F, 3]``.
        ears: triangles of the ears ``[F]`` bool.
        n_vertices: V.
        first: id of the first new vertex.
    """
    ids = np.unique(faces[ears])
    shared = np.isin(ids, faces[~ears])
    outline, inner = ids[shared], ids[~shared]
    copies = np.arange(n_vertices)
    copies[outline] = first + np.arange(len(outline))
    under = np.arange(n_vertices)
    under[inner] = first + len(outline) + np.arange(len(inner))
    cut = np.where(ears[:, None], copies[faces], faces)
    # Evenly spread: an ear's own proportions are folded and mean nothing on the skin under it.
    own = np.searchsorted(ids, faces[ears])
    a, b = own.ravel(), np.roll(own, -1, axis=1).ravel()
    graph = sp.coo_matrix((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), (len(ids), len(ids))).tocsr()
    graph.data[:] = 1
    laplacian = (sp.diags(np.asarray(graph.sum(1)).ravel()) - graph).tocsr()
    blend = sp.lil_matrix((len(ids), n_vertices))
    blend[np.arange(len(outline)), outline] = 1
    if len(inner):
        system = splu(laplacian[~shared][:, ~shared].tocsc())
        blend[len(outline) :, outline] = system.solve(-laplacian[~shared][:, shared].toarray())
    return EarCut(blend.tocsr(), cut, under[faces[ears]])
