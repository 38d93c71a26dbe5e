"""A workload that is asked all the time, to see whether a cluster goes on serving while something is done to it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from . import cluster
from .lab import until
from .node import Node
from .upstream.home import LabError

# httpd as process 1 ignores SIGTERM, so a pod that ends answers until its grace is over.
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 6
      containers:
      - name: web
        image: docker.io/library/busybox:1.33
        command: [sh, -c, "mkdir /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: policy/v1beta1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: web}}
"""
CLIENT = """
rm -f /run/client.stop; asked=0 again=0 lost=0
while [ ! -e /run/client.stop ]; do
  asked=$((asked + 1))
  if ! curl -fs -m 2 -o /dev/null "$1"; then
    again=$((again + 1))
    curl -fs -m 2 -o /dev/null "$1" || { lost=$((lost + 1)); date -u +%T; }
  fi
  sleep 0.08
done
echo "$asked $again $lost"
"""


def apply_web(master: Node) -> str:
    """Run the workload, two pods behind a Service with a budget, and return the Service's URL. Raises LabError."""
    cluster.kubectl(master, "apply", "-f", "-", input=WEB)
    cluster.kubectl(master, "rollout", "status", "deployment/web", "--timeout=120s", timeout=130)
    address = cluster.kubectl(master, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    return f"http://{address}/"


@dataclass(frozen=True)
class Answers:
    """How a client fared: requests, those that had to be repeated once, and those lost all the same."""

    asked: int
    again: int
    lost: int
    told: str


class Client:
    """Asks a URL from a node itself, about ten times a second, until it is stopped; repeats what fails once."""

    def __init__(self, node: Node, url: str) -> None:
        """Start asking; LabError if the workload does not answer at all."""
        if not until(lambda: node.run(["curl", "-fs", "-m", "2", url]).returncode == 0, 60, 0.2):
            raise LabError(f"{url} does not answer on {node.name}")
        self.node = node
        words = node.entering(["bash", "-c", CLIENT, "client", url])
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def stop(self) -> Answers:
        """Stop asking and return how it went."""
        self.node.run("touch /run/client.stop")
        told = self.process.communicate(timeout=60)[0]
        asked, again, lost = map(int, told.splitlines()[-1].split())
        return Answers(asked, again, lost, told)
