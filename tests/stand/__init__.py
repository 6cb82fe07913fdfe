"""The chart's pods as processes of this machine, without Kubernetes and without containers.

`pods.py` runs the container of a rendered pod: its command, arguments and environment, as its user, in a file system of
its own that is read-only but for its volumes (`enter.sh`; Linux's namespaces), asked and started again as the kubelet
does. `controllers.py` says which pods come and go, `network.py` who is found by which name and address, `cluster.py`
holds them together, and `stand.py` installs and upgrades the chart there, on a PostgreSQL.

What it lacks: limits of CPU and memory, network policies, and nodes.
"""
