"""Workers: processes that run agents for a Trainer, one attempt at a time each.

The Trainer's process keeps everything but the agent: the store, the gateway, judges, observers. `parcel` brings the agent to a
worker, `wire` is what both sides say to each other, `worker` runs attempts there, `remote` is an attempt's view of it here and `pool`
keeps as many workers as there are runners. `process` is the executor on this machine; other transports give `pool` another `Link`.
"""
