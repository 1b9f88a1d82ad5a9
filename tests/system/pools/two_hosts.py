"""Two hosts as network namespaces, each with a home of its own, that share Prefect's server and an S3; one is killed in the middle.

unshare --user --map-root-user --net --kill-child python -m tests.system.pools.two_hosts WORKSPACE SESSION_FOLDER MLFLOW_DATABASE
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.system.pools.machines import Machines, kill_tree, standing
from tests.system.pools.shared_node import check_whole, node_of, pieces_at_work, shard_states, write_recipe

# Of this namespace, which both hosts reach; they do not reach each other.
ADDRESS = "10.77.0.1"
S3_PORT = 5555
S3 = {
    "ATTAR_SHARED_STORE": "s3://artifacts/attar", "MLFLOW_S3_ENDPOINT_URL": f"http://{ADDRESS}:{S3_PORT}",
    "AWS_ACCESS_KEY_ID": "attar", "AWS_SECRET_ACCESS_KEY": "attar", "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip


class Host:
    """A network namespace with one cable to this one, and a home that nobody else looks into."""

    def __init__(self, machines: Machines, number: int) -> None:
        self.machines, self.name = machines, f"host-{number}"
        self.home = machines.workspace / self.name / "home"
        (self.home / "prefect").mkdir(parents=True)
        self.holder = machines.start(self.name, ["sleep", "infinity"], machines.environment, ("unshare", "--net"))
        machines.until(lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        ours, own, net = f"here{number}", f"there{number}", f"10.77.{number}"
        ip("link", "add", ours, "type", "veth", "peer", "name", own, "netns", str(self.holder.pid))
        for inside, words in (
            ((), ("addr", "add", f"{net}.1/24", "dev", ours)), ((), ("link", "set", ours, "up")),
            (self.inside, ("link", "set", "lo", "up")), (self.inside, ("addr", "add", f"{net}.2/24", "dev", own)),
            (self.inside, ("link", "set", own, "up")), (self.inside, ("route", "add", "default", "via", f"{net}.1")),
        ):  # fmt: skip
            ip(*words, inside=inside)

    @property
    def inside(self) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self.holder.pid), "--net")

    def start_worker(self) -> None:
        own = {
            "ATTAR_HOME": str(self.home),
            "PREFECT_HOME": str(self.home / "prefect"),
            "ATTAR_WORKSPACE": str(self.home.parent),
        }
        words = [sys.executable, "-m", "pipelines", "worker", "cpu"]
        environment = self.machines.environment | own | {"ATTAR_NUM_GPUS": "0"}
        self.worker = self.machines.start(f"worker-{self.name}", words, environment, self.inside)

    def die(self) -> None:
        """Its processes end at once, and with them its network."""
        kill_tree(self.worker.pid)
        kill_tree(self.holder.pid)


def ip(*words: str, inside: tuple[str, ...] = ()) -> None:
    subprocess.run([*inside, "ip", *words], check=True)


def main(workspace: Path, session_folder: Path, mlflow_database: Path) -> None:
    import boto3

    ip("link", "set", "lo", "up")
    ip("addr", "add", f"{ADDRESS}/32", "dev", "lo")
    write_recipe(workspace)
    environment = dict(os.environ) | S3
    with standing(workspace, environment, session_folder, mlflow_database, ["cpu"], ADDRESS) as machines:
        moto = [sys.executable, "-m", "moto.server", "--host", ADDRESS, "--port", str(S3_PORT)]
        machines.start("s3", moto, environment, ())
        os.environ |= S3
        client = boto3.client("s3", endpoint_url=S3["MLFLOW_S3_ENDPOINT_URL"])
        machines.until(lambda: is_made(client), what="no S3")
        machines.shorten_silence()
        hosts = [Host(machines, number) for number in (1, 2)]
        for host in hosts:
            host.start_worker()
        parent = machines.start("run", ["pipelines", "run", "shared.yaml", "--json"], machines.environment)
        machines.until(lambda: all(sum(pieces_at_work(host.home)) for host in hosts), what="no two at work")
        hosts[1].die()
        assert parent.wait(timeout=500) == 0, machines.log("run") + machines.log("worker-host-1")
        states = shard_states(machines)
        assert states == ["COMPLETED", "COMPLETED", "CRASHED"], states
        check_whole(machines.home, workspace / "alone")
        keys = {entry["Key"].split("/")[2] for entry in client.list_objects_v2(Bucket="artifacts")["Contents"]}
        shards = node_of(machines.home, "rewritten")["shards"]
        assert set(shards) <= keys, "both came through the object store"
        print(f"two hosts, one killed: {len(shards)} shards gathered, states {states}")


def is_made(client: object) -> bool:
    try:
        client.create_bucket(Bucket="artifacts")  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - it is not up yet
        return False
    return True


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
