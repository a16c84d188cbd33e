"""ray_cluster.yaml on AWS in this process: what Ray makes of it there, who gets in, which machines it asks for."""

import copy
import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import aws_moto
import click
import pytest
import yaml
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

ROOT = Path(__file__).parent.parent
AWS = ROOT / "ray_cluster.yaml"
HOME_ADDRESS = "203.0.113.7/32"
WORLD = {"0.0.0.0/0", "::/0"}

sys.path.insert(0, str(ROOT / "clusters"))
import aws_setup  # noqa: E402


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with aws_moto.account(home) as ec2:
        aws_moto.publish_image(aws_setup.IMAGE, "ami-12c6146b")
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("secret")
        yield ec2


@pytest.fixture(scope="module")
def brought_up(cloud):
    """The cluster file, filled in, as Ray has resolved it."""
    with redirect_stdout(io.StringIO()) as printed:
        set_up()
    return aws_moto.resolved(filled_in(printed.getvalue()))


def set_up(*, address: str = HOME_ADDRESS, name: str = "hilbert") -> None:
    words = ["--region", aws_moto.REGION, "--ssh-from", address, "--bucket", "a-lab", "--name", name]
    assert aws_setup.main(words) == 0


def filled_in(printed: str) -> dict[str, Any]:
    """The cluster file with the three values that `aws_setup.py` prints."""
    values = dict(re.split(": |=", line, maxsplit=1) for line in printed.splitlines())
    text = AWS.read_text(encoding="utf-8")
    for old, new in (
        ("ami-00000000000000000", values["ImageId"]),
        ("[sg-00000000000000000]", values["SecurityGroupIds"]),
        ("BUCKET=CHANGE-ME", f"BUCKET={values['BUCKET']}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return yaml.safe_load(text)


def test_the_cloud_starts_what_the_file_says(cloud, brought_up):
    config = brought_up
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert types["gpu_spot"]["resources"]["GPU"] == 1
    groups = set()
    for name in types:
        machine, asked = aws_moto.launch(config, name)
        assert asked["InstanceType"] == ("m7i.xlarge" if name == "head" else "g6.xlarge")
        assert asked.get("InstanceMarketOptions") == ({"MarketType": "spot"} if name == "gpu_spot" else None)
        assert asked["MetadataOptions"] == {"HttpTokens": "required"}
        assert asked["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
        assert ("IamInstanceProfile" in asked) == (name == "head"), "workers have no rights in the account"
        groups |= {group["GroupId"] for group in machine.security_groups}
    (group,) = groups
    assert aws_moto.doors(cloud, group) == [(22, HOME_ADDRESS)]
    assert_members_reach_each_other(cloud, group)
    assert Path.home().joinpath(".ssh", f"ray-autoscaler_{aws_moto.REGION}.pem").stat().st_mode & 0o777 == 0o600


def assert_members_reach_each_other(ec2, group):
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    inside = [rule for rule in found["IpPermissions"] if rule["UserIdGroupPairs"]]
    assert [(rule["IpProtocol"], rule["UserIdGroupPairs"][0]["GroupId"]) for rule in inside] == [("-1", group)]


def test_the_firewall_moves_with_you(cloud, capsys):
    set_up(name="moves")
    group = re.search(r"SecurityGroupIds: \[(sg-\w+)\]", capsys.readouterr().out)[1]
    cloud.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 99, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
    )
    assert (1, "0.0.0.0/0") in aws_moto.doors(cloud, group), "the check sees an open door"
    for address in ("198.51.100.4/32", "198.51.100.4/32"):
        set_up(name="moves", address=address)
        assert f"SecurityGroupIds: [{group}]\n" in capsys.readouterr().out
        assert aws_moto.doors(cloud, group) == [(22, address)]
        assert_members_reach_each_other(cloud, group)


@pytest.mark.parametrize("address", ["0.0.0.0/0", "10.0.0.0/8", "203.0.113.7/24", "home"])
def test_a_firewall_for_everybody_is_refused(address, capsys):
    with pytest.raises(SystemExit):
        aws_setup.main(["--region", "x", "--bucket", "y", "--ssh-from", address])
    assert "--ssh-from" in capsys.readouterr().err


def test_a_file_that_nobody_filled_in_starts_nothing(cloud):
    with pytest.raises((click.ClickException, AssertionError)):
        aws_moto.bootstrapped(yaml.safe_load(AWS.read_text(encoding="utf-8")))


@pytest.mark.parametrize("provider", [{}, {"security_group": {"GroupName": "own", "IpPermissions": []}}])
def test_a_firewall_left_to_ray_is_open_to_the_world(cloud, capsys, provider):
    """Why the file names a group: were it to, Ray would open ssh to everybody, also where `security_group` is given."""
    set_up()
    config = filled_in(capsys.readouterr().out)
    config["provider"].update(provider)
    for node in config["available_node_types"].values():
        del node["node_config"]["SecurityGroupIds"]
    (group,) = aws_moto.bootstrapped(config)["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    assert {network for _, network in aws_moto.doors(cloud, group)} & WORLD


def launched(resolved: dict[str, Any], jobs: int, monitor: CloudResourceMonitor | None = None, **most: int) -> dict:
    """The machines that Ray's own scheduler starts for jobs of one GPU, with other `max_workers` if you like."""
    # as `ray up` gives it to the head
    config = AutoscalingConfig({key: value for key, value in resolved.items() if key != "head_node"})
    types = copy.deepcopy(config.get_node_type_configs())
    for name, number in most.items():
        types[name].max_worker_nodes = number
    monitor = monitor or CloudResourceMonitor()
    job = ResourceRequestUtil.make({"CPU": 1, "GPU": 1})
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=[ResourceRequestByCount(request=job, count=jobs)],
        cloud_resource_availabilities=monitor.get_resource_availabilities(),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    return {group.instance_type: group.count for group in ResourceDemandScheduler().schedule(request).to_launch}


def test_spot_machines_come_first_and_others_when_they_are_used_up(brought_up):
    """Without the priorities Ray would toss a coin."""
    assert launched(brought_up, 0) == {}
    assert launched(brought_up, 5) == {"gpu_spot": 5}
    assert launched(brought_up, 100) == {"gpu_spot": 6, "gpu_on_demand": 2}
    assert launched(brought_up, 100, gpu_spot=0) == {"gpu_on_demand": 2}
    assert brought_up["idle_timeout_minutes"] == 10


def test_ray_asks_for_spot_machines_again_when_there_are_none(brought_up):
    """Why the file says what to do then: where this fails, Ray has learnt it, and the file may say less."""
    monitor = CloudResourceMonitor()
    refused = InstanceUpdateEvent(new_instance_status=Instance.ALLOCATION_FAILED, instance_type="gpu_spot")
    monitor.notify([refused])
    assert launched(brought_up, 2, monitor) == {"gpu_spot": 2}
    monitor.notify([InstanceUpdateEvent(new_instance_status=Instance.ALLOCATION_TIMEOUT, instance_type="gpu_spot")])
    assert launched(brought_up, 2, monitor) == {"gpu_on_demand": 2}, "a machine that never comes up is another matter"
