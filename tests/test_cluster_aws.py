"""ray_cluster.yaml on AWS in this process: what Ray makes of it there, who gets in, which machines it asks for."""

import copy
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import aws_moto
import boto3
import click
import pytest
import yaml
from botocore.exceptions import ClientError
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
RAYS_POLICIES = ("AmazonEC2FullAccess", "AmazonS3FullAccess")
"""Of the role that Ray gives a head that has none."""
HEAD, WORKER = "hilbert-head", "hilbert-worker"
ACCOUNT = aws_moto.DEFAULT_ACCOUNT_ID
READING = {("s3:ListBucket", "arn:aws:s3:::a-lab"), ("s3:GetObject", "arn:aws:s3:::a-lab/*")}
WRITING = {(f"s3:{act}", "arn:aws:s3:::a-lab/*") for act in ("PutObject", "AbortMultipartUpload", "DeleteObject")}

sys.path.insert(0, str(ROOT / "clusters"))
import aws_setup  # noqa: E402


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with aws_moto.account(home) as ec2:
        aws_moto.publish_image(aws_setup.IMAGE, "ami-12c6146b")
        for name in RAYS_POLICIES:
            aws_moto.publish_policy(name)
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("secret")
        yield ec2


@pytest.fixture(scope="module")
def brought_up(cloud):
    """The cluster file, filled in, as Ray has resolved it."""
    with redirect_stdout(io.StringIO()) as printed:
        set_up()
    return aws_moto.resolved(filled_in(printed.getvalue()))


def set_up(*, address: str = HOME_ADDRESS, bucket: str = "a-lab", name: str = "hilbert", code: int = 0) -> None:
    words = ["--region", aws_moto.REGION, "--ssh-from", address, "--bucket", bucket, "--name", name]
    assert aws_setup.main(words) == code


def filled_in(printed: str) -> dict[str, Any]:
    """The cluster file with the three values that `aws_setup.py` prints."""
    values = dict(re.split(": |=", line, maxsplit=1) for line in printed.splitlines())
    text = AWS.read_text(encoding="utf-8")
    assert {f"IamInstanceProfile: {{Name: {role}}}" in text for role in values["IamInstanceProfile"].split(", ")} == {
        True
    }
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
        assert aws_moto.role_of(machine) == (HEAD if name == "head" else WORKER)
        groups |= {group["GroupId"] for group in machine.security_groups}
    (group,) = groups
    assert aws_moto.doors(cloud, group) == [(22, HOME_ADDRESS)]
    assert_members_reach_each_other(cloud, group)
    assert Path.home().joinpath(".ssh", f"ray-autoscaler_{aws_moto.REGION}.pem").stat().st_mode & 0o777 == 0o600


def test_machines_may_do_what_they_need_and_no_more(cloud, brought_up):
    assert aws_moto.rights(WORKER) == READING
    of_head = aws_moto.rights(HEAD)
    assert of_head >= READING | WRITING
    assert {action for action, _ in of_head if not action.startswith(("ec2:Describe", "s3:"))} == {
        *("ec2:RunInstances", "ec2:CreateTags", "ec2:StartInstances", "ec2:StopInstances", "ec2:TerminateInstances"),
        *("iam:PassRole", "iam:CreateServiceLinkedRole"),
    }
    assert {action.startswith("ec2:Describe") for action, on in of_head if on == "*"} == {True}
    assert [on for action, on in of_head if action == "iam:PassRole"] == [
        f"arn:aws:iam::{ACCOUNT}:role/hilbert/{WORKER}"
    ]
    assert boto3.client("iam").list_attached_role_policies(RoleName=HEAD)["AttachedPolicies"] == []
    for role in (HEAD, WORKER):
        (trusted,) = boto3.client("iam").get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]["Statement"]
        assert (trusted["Principal"], trusted["Action"]) == ({"Service": "ec2.amazonaws.com"}, "sts:AssumeRole")
    roles = boto3.client("iam").list_roles(PathPrefix="/")["Roles"]
    assert [role["RoleName"] for role in roles if "ray" in role["RoleName"]] == []


def test_the_head_starts_and_ends_workers_of_its_own_and_nothing_else(cloud, brought_up):
    """By the policy's conditions, which moto doesn't know."""
    _, asked = aws_moto.launch(brought_up, "gpu_spot")
    own = f"arn:aws:iam::{ACCOUNT}:instance-profile/hilbert/{asked['IamInstanceProfile']['Name']}"
    here = f"arn:aws:ec2:{aws_moto.REGION}"
    parts = ["subnet/subnet-1", "security-group/sg-1", "volume/vol-1", "network-interface/eni-1", "key-pair/ray"]
    for part in [*parts, "spot-instances-request/sir-1"]:
        assert aws_moto.permits(HEAD, "ec2:RunInstances", f"{here}:{ACCOUNT}:{part}")
    assert aws_moto.permits(HEAD, "ec2:RunInstances", f"{here}::image/{asked['ImageId']}")
    machine = f"{here}:{ACCOUNT}:instance/i-1"
    for action in ("RunInstances", "CreateTags", "StartInstances", "StopInstances", "TerminateInstances"):
        assert aws_moto.permits(HEAD, f"ec2:{action}", machine, {"ec2:InstanceProfile": own})
        for other in ({}, {"ec2:InstanceProfile": own.replace(WORKER, "admin")}):
            assert not aws_moto.permits(HEAD, f"ec2:{action}", machine, other)
        elsewhere = machine.replace(aws_moto.REGION, "eu-west-1")
        assert not aws_moto.permits(HEAD, f"ec2:{action}", elsewhere, {"ec2:InstanceProfile": own})
    assert aws_moto.permits(HEAD, "ec2:CreateTags", machine, {"ec2:CreateAction": "RunInstances"})
    role, to_ec2 = f"arn:aws:iam::{ACCOUNT}:role/hilbert/{WORKER}", {"iam:PassedToService": "ec2.amazonaws.com"}
    assert aws_moto.permits(HEAD, "iam:PassRole", role, to_ec2)
    assert not aws_moto.permits(HEAD, "iam:PassRole", role, {"iam:PassedToService": "lambda.amazonaws.com"})
    assert not aws_moto.permits(HEAD, "iam:PassRole", role.replace(WORKER, HEAD), to_ec2)
    for action in ("ec2:DeleteVolume", "ec2:AuthorizeSecurityGroupIngress", "ec2:CreateSnapshot", "ec2:DeleteTags"):
        assert not aws_moto.permits(HEAD, action, "*", {"ec2:InstanceProfile": own})


def test_a_bucket_is_private_and_reached_by_tls_alone(cloud, brought_up, capsys):
    s3 = boto3.client("s3")
    (statement,) = json.loads(s3.get_bucket_policy(Bucket="a-lab")["Policy"])["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Resource"] == ["arn:aws:s3:::a-lab", "arn:aws:s3:::a-lab/*"]
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert set(s3.get_public_access_block(Bucket="a-lab")["PublicAccessBlockConfiguration"].values()) == {True}
    place = {"LocationConstraint": aws_moto.REGION}
    s3.create_bucket(Bucket="older", CreateBucketConfiguration=place)
    set_up(name="older", bucket="older")
    assert "SecureTransport" in s3.get_bucket_policy(Bucket="older")["Policy"]
    s3.create_bucket(Bucket="theirs", CreateBucketConfiguration=place)
    s3.put_bucket_policy(Bucket="theirs", Policy=json.dumps({"Version": "2012-10-17", "Statement": []}))
    s3.put_public_access_block(Bucket="theirs", PublicAccessBlockConfiguration={"BlockPublicAcls": False})
    capsys.readouterr()
    set_up(name="theirs", bucket="theirs")
    told = capsys.readouterr().err
    assert "theirs may be made public" in told
    assert "without TLS" in told
    assert "SecureTransport" not in s3.get_bucket_policy(Bucket="theirs")["Policy"]


def test_a_role_of_an_earlier_version_loses_all_of_ec2(cloud):
    set_up(name="earlier")
    iam = boto3.client("iam")
    iam.attach_role_policy(RoleName="earlier-head", PolicyArn="arn:aws:iam::aws:policy/AmazonEC2FullAccess")
    assert ("ec2:*", "*") in aws_moto.rights("earlier-head")
    set_up(name="earlier")
    assert ("ec2:*", "*") not in aws_moto.rights("earlier-head")


@pytest.fixture
def without_tls(cloud, brought_up):
    """The bucket without its policy: moto doesn't know its condition, and would refuse everything."""
    s3 = boto3.client("s3")
    policy = s3.get_bucket_policy(Bucket="a-lab")["Policy"]
    s3.delete_bucket_policy(Bucket="a-lab")
    yield
    s3.put_bucket_policy(Bucket="a-lab", Policy=policy)


def test_the_bucket_is_read_by_workers_and_written_by_the_head(without_tls):
    s3 = boto3.client("s3")
    other = {"Bucket": "anothers", "Key": "x"}
    s3.create_bucket(Bucket="anothers", CreateBucketConfiguration={"LocationConstraint": aws_moto.REGION})
    for place in ({"Bucket": "a-lab", "Key": "features/mine/manifest.json"}, other):
        s3.put_object(**place, Body=b"{}")
    own = {"Bucket": "a-lab", "Key": "features/mine/manifest.json"}
    for role, writes in ((WORKER, False), (HEAD, True)):
        assert aws_moto.allowed(role, "s3", "get_object", **own)
        assert aws_moto.allowed(role, "s3", "head_object", **own)
        assert aws_moto.allowed(role, "s3", "list_objects_v2", Bucket="a-lab")
        assert aws_moto.allowed(role, "s3", "put_object", Bucket="a-lab", Key=f"mlflow/{role}", Body=b"") == writes
        assert aws_moto.allowed(role, "s3", "delete_object", Bucket="a-lab", Key="mlflow/x") == writes
        assert aws_moto.allowed(role, "ec2", "describe_instances") == writes
        assert not aws_moto.allowed(role, "s3", "delete_bucket", Bucket="a-lab")
        for action in ("get_object", "put_object", "delete_object"):
            assert not aws_moto.allowed(role, "s3", action, **other)
        assert not aws_moto.allowed(role, "s3", "list_objects_v2", Bucket="anothers")
        assert not aws_moto.allowed(role, "iam", "list_roles")


def test_rays_own_role_could_not_start_such_workers(cloud):
    """Why the head has another: were Ray's to hand roles on, the file could leave the head to it."""
    iam = boto3.client("iam")
    iam.create_role(RoleName="as-ray", AssumeRolePolicyDocument="{}")
    for name in RAYS_POLICIES:
        iam.attach_role_policy(RoleName="as-ray", PolicyArn=f"arn:aws:iam::aws:policy/{name}")
    assert {action for action, _ in aws_moto.rights("as-ray") if action.startswith("iam:")} == {
        "iam:CreateServiceLinkedRole"
    }
    assert ("s3:*", "*") in aws_moto.rights("as-ray"), "and it writes to every bucket"


@contextmanager
def changes(most: int = 99) -> Iterator[list[str]]:
    """What IAM is asked for meanwhile that isn't a question; after the most that are let through, one is cut off."""
    found: list[str] = []

    def note(model, **_):
        if not model.name.startswith(("Get", "List")):
            if len(found) == most:
                raise KeyboardInterrupt
            found.append(model.name)

    events = boto3.DEFAULT_SESSION.events
    events.register("before-call.iam", note, unique_id="changes")
    try:
        yield found
    finally:
        events.unregister("before-call.iam", unique_id="changes")


def test_roles_are_made_once_and_put_right(cloud, capsys):
    with changes() as made:
        set_up(name="once")
    assert len(made) == 8, "the check sees changes"
    with changes() as made:
        set_up(name="once")
    assert made == []
    assert "IamInstanceProfile: once-head, once-worker\n" in capsys.readouterr().out
    iam = boto3.client("iam")
    wider = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::a-lab/*"}],
    }
    iam.put_role_policy(RoleName="once-worker", PolicyName=aws_setup.POLICY, PolicyDocument=json.dumps(wider))
    assert aws_moto.rights("once-worker") == {("s3:*", "arn:aws:s3:::a-lab/*")}
    with changes() as made:
        set_up(name="once")
    assert made == ["PutRolePolicy"]
    assert aws_moto.rights("once-worker") == READING


@pytest.mark.parametrize("number", range(8))
def test_a_setup_that_was_cut_short_goes_on(cloud, number):
    name = f"cut{number}"
    with pytest.raises(KeyboardInterrupt), changes(most=number):
        set_up(name=name)
    set_up(name=name)
    assert aws_moto.rights(f"{name}-worker") == READING
    assert aws_moto.rights(f"{name}-head") >= READING | WRITING | {("ec2:DescribeInstances", "*")}
    for role in (f"{name}-head", f"{name}-worker"):
        profile = boto3.client("iam").get_instance_profile(InstanceProfileName=role)["InstanceProfile"]
        assert [each["RoleName"] for each in profile["Roles"]] == [role]


def test_another_bucket_needs_another_name(cloud, capsys):
    """Were roles moved or widened, one lab's machines would lose their bucket, or read the other's."""
    set_up(name="first")
    group = re.search(r"SecurityGroupIds: \[(sg-\w+)\]", capsys.readouterr().out)[1]
    before = aws_moto.rights("first-worker"), aws_moto.rights("first-head")
    with changes() as made:
        set_up(name="first", bucket="b-lab", address="198.51.100.4/32", code=1)
    assert made == []
    assert "first-head is for the bucket a-lab; another --name makes roles of its own" in capsys.readouterr().err
    assert before == (aws_moto.rights("first-worker"), aws_moto.rights("first-head"))
    assert aws_moto.doors(cloud, group) == [(22, HOME_ADDRESS)], "nor is the firewall moved"
    set_up(name="second", bucket="b-lab")
    assert aws_moto.rights("second-worker") == {(action, on.replace("a-lab", "b-lab")) for action, on in READING}


@pytest.mark.parametrize("made", ["role", "profile"])
def test_what_is_somebody_elses_is_left_alone(cloud, capsys, made):
    iam, name = boto3.client("iam"), f"their-{made}"
    if made == "role":
        iam.create_role(RoleName=f"{name}-worker", AssumeRolePolicyDocument="{}")
    else:
        iam.create_instance_profile(InstanceProfileName=f"{name}-worker")
    with changes() as asked:
        set_up(name=name, code=1)
    assert asked == []
    assert f"{name}-worker is there already, and isn't HILBERT's" in capsys.readouterr().err


def test_a_bucket_that_is_not_yours_gets_no_role(cloud, capsys):
    def refused(**_):
        raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadBucket")

    boto3.DEFAULT_SESSION.events.register("before-call.s3.HeadBucket", refused, unique_id="refused")
    try:
        with changes() as made:
            set_up(name="strange", bucket="strangers", code=1)
    finally:
        boto3.DEFAULT_SESSION.events.unregister("before-call.s3.HeadBucket", unique_id="refused")
    assert made == []
    assert "Forbidden" in capsys.readouterr().err


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
