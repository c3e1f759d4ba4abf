"""FLAME (Li et al. 2017) as a head model: import of MPI's files, evaluation, and everything derived from the mesh.

Nothing of MPI's is part of this package. The user downloads a model file under MPI's licence and installs it once with
``zero1toa assets install``; regions, teeth, mouth cavity, lids, landmarks and ARKit units are derived from its mesh.
"""
