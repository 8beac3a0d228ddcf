"""The parameter server: servers own the parameters, workers push gradients and pull parameters.

    worker 0   loss → gradient ─ push ─┐           ┌─ server 0   shard 0: parameters, optimiser state, version
    worker 1   loss → gradient ─ push ─┼───────────┤
    worker 2   loss → gradient ─ push ─┘   ← pull  └─ server 1   shard 1

    messages.py    what they say to each other
    server.py      a shard's logic, without transport or arithmetic: handle(message) -> replies
    policies.py    when a gradient is applied and who may go on: synchronous, bounded, asynchronous
    arrivals.py    the order of a run, written down and repeated                   ledger.py    units applied already
    shard.py       a shard's arithmetic: gradients in, the optimiser's update      rows.py      of a sparse parameter
    service.py     what a server rank does                                         wire.py      messages as numbers
    worker.py      what a worker's backward and step do                            work.py      its units of work
    client.py      its way to the shards                                           settings.py  its optimisers' settings
    roles.py       which rank is what                                              layout.py    where arrays lie
    assembly.py    puts a rank together                                            lines.py     the lines between ranks
    strategy.py    what the user says

Source: Li et al., Scaling distributed machine learning with the parameter server, 2014; Ho et al., More effective
distributed ML via a stale synchronous parallel parameter server, 2013; Chen et al., Revisiting distributed synchronous
SGD, 2016 (backup workers).
"""
