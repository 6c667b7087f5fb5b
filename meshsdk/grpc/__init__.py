"""gRPC on the mesh: channels that grpc-core's own xDS engine carries, and interceptors for servers.

Enters: a Mesh's Directory, and calls. Leaves: `grpc.Channel`s and `grpc.aio.Channel`s.

Theory of operation. grpc-core speaks xDS itself, checks SPIFFE identities and balances at native speed; so meshsdk is
its management server, in this process, on a unix socket (`engine`). What discovery has resolved is written down as the
resources that grpc-core takes, with the shares, health and failover that meshsdk's own balancing has worked out.

A call goes one of two ways. Where grpc-core can carry out every route that the method may take, the call goes straight
to it, untouched. Where it cannot (header changes, faults, rate limits, direct responses, mirrors, rewrites, …), meshsdk
decides by the very code that decides for httpx (`exchange`), and hands the call to a channel that leads to the one
cluster that was chosen. `channels/call_plan` says which way, once for each method and configuration.
"""
