"""AWS in this process (moto), and Ray's own way of making a cluster there, down to the request for a machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ssm.models import Parameter, ssm_backends
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    TAG_RAY_LAUNCH_CONFIG,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

REGION = "us-west-2"
ROLE = "ray-autoscaler-v1"


@contextmanager
def account(home: Path) -> Iterator[Any]:
    """An empty account with its default network, in which Ray has been used before: its role for heads is there."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setenv("HOME", str(home))
        iam = boto3.client("iam", REGION)
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=ROLE)
        iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)
        yield boto3.client("ec2", REGION)


def publish_image(name: str, value: str) -> None:
    """A public parameter as Amazon publishes it, which nobody else can."""
    backend = ssm_backends[DEFAULT_ACCOUNT_ID][REGION]
    backend._parameters[name] = [
        Parameter(
            account_id=DEFAULT_ACCOUNT_ID, name=name, value=value, parameter_type="String", description="",
            allowed_pattern=None, keyid=None, last_modified_date=datetime.now(UTC), version=1, data_type="text",
        )
    ]  # fmt: skip


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a cluster file: defaults, the machines' resources, the schema, and AWS's numbers."""
    full = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(config))
    validate_config(full)
    return AWSNodeProvider.bootstrap_config(full)


def bootstrapped(config: dict[str, Any]) -> dict[str, Any]:
    """The last part of that alone, which finds or makes role, key, network and firewall."""
    return AWSNodeProvider.bootstrap_config(prepare_config(config))


def launch(config: dict[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    """Starts one machine of a node type, as Ray does; the machine, and what EC2 was asked for."""
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    asked: dict[str, Any] = {}
    events = provider.ec2_fail_fast.meta.client.meta.events
    events.register("provide-client-params.ec2.RunInstances", lambda params, **_: asked.update(params))
    head = name == config["head_node_type"]
    node_config = dict(config["available_node_types"][name]["node_config"])
    if head:
        node_config.update(config["head_node"])
    tags = {
        TAG_RAY_NODE_KIND: NODE_KIND_HEAD if head else NODE_KIND_WORKER,
        TAG_RAY_USER_NODE_TYPE: name,
        TAG_RAY_NODE_NAME: name,
        TAG_RAY_NODE_STATUS: "uninitialized",
        TAG_RAY_LAUNCH_CONFIG: name,
    }
    (machine,) = provider.create_node(node_config, tags, 1).values()
    return machine, asked


def doors(ec2: Any, group: str) -> list[tuple[int | None, str]]:
    """What a security group lets in from outside: pairs of port and network."""
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    return [
        (rule.get("FromPort"), source[key])
        for rule in found["IpPermissions"]
        for kind, key in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6"))
        for source in rule.get(kind, [])
    ]
