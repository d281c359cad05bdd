"""Several engines that serve one model, here or elsewhere: a request goes where its grams are least within the latency target.

`choose` is the policy, which knows only figures. `latency` learns how long a first token takes on an engine that is so busy.
`replica` keeps an engine's figures, and puts it to sleep and wakes it; `pool` is what a gateway sees in place of one engine.
"""
