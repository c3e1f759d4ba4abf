"""The loop on Ray: actors, dispatch, staleness. The only package that imports Ray. Who is who:

====================  ==================================  ===================================================
In the picture        Module                              What it is
====================  ==================================  ===================================================
coordinator           ``coordinator``                     in the driver: begins avatars, replaces the dead
its pools             ``trainer_pool, refiner_pool``      the actors of one kind
reconstruction        ``reconstruction``                  actor, "trainer": one avatar's Gaussians at a time
its way to refiners   ``refinery``                        submits requests, hears answers
dispatcher            ``dispatcher, leases``              actor: the queue; no pictures, no tensors
refinement            ``refinement``                      actor, "refiner": inverts, denoises, commits
store                 ``store_actor``                     actor: the one writer of up to fifty datasets
photos and ledger     ``portraits, preparation``          triage, preparation, a row for each portrait
all together          ``batch, generate``                 a batch; one avatar, or any other work
====================  ==================================  ===================================================

Around them: where actors run (``session, placement, room, drain``), what a machine needs (``node, once``), what is
seen of it (``metrics, bulletin, measuring``), and a fleet that sleeps or only counts (``rehearsal, simulation``). What
passes between actors is in ``records``.
"""
