"""The forms in which recommendations can be kept: files of a node, a systemd unit, a Kubernetes container."""

FORMS = ("sysctl", "systemd", "k8s")
