"""A parameter server that survives: a dead server's shards live on as replicas, a dead worker's work is assigned again.

    worker 0   ─ push ─┬─ server 0   shard 0 ─ header, gradient ─▶ replica of 0 on server 1 ─ applied ─▶ ─ answer ─▶
    worker 1   ─ push ─┴─ server 1   shard 1 ────────────────────▶ replica of 1 on server 0 ───────────▶ ─ answer ─▶

    shards.py      a shard with what it was before its last update, and its state as a value
    replicas.py    a server forwards what it applies; a thread on another rank applies it too
    strategy.py    the strategy, with roles for as many ranks as there are
    recovery.py    after a death: who has what, all get all, and it begins anew from there

A communicator is an epoch: nothing old is repaired. Whoever is left gives the shards that it holds, all get all of
them, ranks get roles anew, and the strategy is attached anew. With staleness 0 shards are at most one update apart, so
each can go back by one, and the iteration in flight is done again. Else each shard has its set of applied work
items, and what is missing from any is assigned again.
"""
