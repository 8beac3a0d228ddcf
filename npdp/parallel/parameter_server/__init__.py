"""The parameter server: servers own the parameters, workers push gradients and pull parameters.

    worker 0   loss → gradient ─ push ─┐           ┌─ server 0   shard 0: parameters, optimiser state, version
    worker 1   loss → gradient ─ push ─┼───────────┤
    worker 2   loss → gradient ─ push ─┘   ← pull  └─ server 1   shard 1

    server.py      a shard's logic, without transport or arithmetic: handle(message) -> replies; and when a gradient is
                   applied and who may go on: synchronous, bounded, asynchronous     work.py      who works on what
    shard.py       a shard's arithmetic, and the address layout                      rows.py      of sparse parameters
    service.py     what a server rank does                                           worker.py    backward and step
    messages.py    what they say to each other                                       client.py    a worker's way there
    strategy.py    what the user says                                                update_log.py  a run repeated
    record.py      what a shard has applied

Source: Li et al., Scaling distributed machine learning with the parameter server, 2014; Ho et al., More effective
distributed ML via a stale synchronous parallel parameter server, 2013.
"""
