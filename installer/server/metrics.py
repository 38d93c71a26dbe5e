"""What Prometheus scrapes."""

from typing import Any, Dict, List

FIELDS = [("Content-Type", "text/plain; version=0.0.4; charset=utf-8"), ("Cache-Control", "no-store")]
_STATES = ("started", "done", "failed")


def render(facts: Dict[str, Any], totals: Dict[str, Any], nodes: List[Dict[str, Any]]) -> bytes:
    """Counters of all workers, as of their last tick; `nodes` and `totals` as the Desk gives them."""
    lines = _family("kubecarry_bundle_info", "gauge", "The bundle that is served.", [
        ('{{release="{}",kubernetes="{}",sums="{}"}}'.format(
            _quoted(facts["release"]), _quoted(facts["kubernetes"]), facts["sums"]), 1)])
    lines += _family("kubecarry_replies_total", "counter", "Replies by the class of their status.", [
        ('{{code="{}xx"}}'.format(digit), totals["replies"][digit]) for digit in range(2, 6)])
    lines += _family("kubecarry_sent_bytes_total", "counter", "Bytes that clients took.", [("", totals["sent"])])
    lines += _family("kubecarry_connections", "gauge", "Open connections.", [("", totals["connections"])])
    states = [one["state"] for one in nodes]
    lines += _family("kubecarry_nodes", "gauge", "Nodes by the state that they reported last.", [
        ('{{state="{}"}}'.format(state), states.count(state)) for state in _STATES])
    return ("\n".join(lines) + "\n").encode("utf-8")


def _family(name: str, kind: str, about: str, samples: List[Any]) -> List[str]:
    lines = ["# HELP {} {}".format(name, about), "# TYPE {} {}".format(name, kind)]
    return lines + ["{}{} {}".format(name, labels, value) for labels, value in samples]


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
