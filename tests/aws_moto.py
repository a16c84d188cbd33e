"""AWS in this process (moto), and Ray's own way of making a cluster there, down to the request for a machine."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.authorization import enable_iam_authentication
from moto.iam.aws_managed_policies import aws_managed_policies_data
from moto.iam.models import AWSManagedPolicy, iam_backends
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
Right = tuple[str, str]
"""What may be done, and to what."""


@contextmanager
def account(home: Path) -> Iterator[Any]:
    """An empty account with its default network."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setenv("HOME", str(home))
        boto3.setup_default_session()  # sessions of other tests know other keys
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


def publish_policy(name: str) -> None:
    """One of Amazon's own policies, as Amazon has written it."""
    policy = AWSManagedPolicy.from_data(name, DEFAULT_ACCOUNT_ID, REGION, json.loads(aws_managed_policies_data)[name])
    iam_backends[DEFAULT_ACCOUNT_ID]["aws"].managed_policies[policy.arn] = policy


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


def rights(role: str) -> set[Right]:
    """What a role may do, by its own policies and by Amazon's, whatever the conditions."""
    return {right for statement in statements(role) for right in _rights(statement)}


def statements(role: str) -> list[dict[str, Any]]:
    """The statements of a role's policies, its own and Amazon's."""
    iam = boto3.client("iam", REGION)
    documents = [
        iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)
        documents.append(found["PolicyVersion"]["Document"])
    return [statement for document in documents for statement in document["Statement"]]


def _rights(statement: dict[str, Any]) -> set[Right]:
    assert statement["Effect"] == "Allow"
    actions, places = (
        [statement[key]] if isinstance(statement[key], str) else statement[key] for key in ("Action", "Resource")
    )
    return {(action, place) for action in actions for place in places}


def permits(role: str, action: str, place: str, context: Mapping[str, str] = MappingProxyType({})) -> bool:
    """Whether a role may do something to one resource, by IAM's rules: the context holds what conditions are about."""
    return any(
        any(fnmatchcase(action, may) and fnmatchcase(place, on) for may, on in _rights(statement))
        and all(
            context.get(key) == wanted
            for operator, pairs in statement.get("Condition", {}).items()
            for key, wanted in pairs.items()
            if operator in {"StringEquals", "ArnEquals"} or pytest.fail(f"unknown operator {operator}")
        )
        for statement in statements(role)
    )


def role_of(machine: Any) -> str:
    """The role that a machine has."""
    (profile,) = boto3.client("ec2", REGION).describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [machine.id]}]
    )["IamInstanceProfileAssociations"]
    name = profile["IamInstanceProfile"]["Arn"].rpartition("/")[2]
    (role,) = boto3.client("iam", REGION).get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
    return str(role["RoleName"])


def allowed(role: str, service: str, action: str, **words: Any) -> bool:
    """Whether a program that runs with a role gets through with a request: moto enforces the role's policies."""
    arn = boto3.client("iam", REGION).get_role(RoleName=role)["Role"]["Arn"]
    keys = boto3.client("sts", REGION).assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
    client = boto3.client(
        service,
        REGION,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    with enable_iam_authentication():
        try:
            getattr(client, action)(**words)
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"AccessDenied", "UnauthorizedOperation", "403"}:
                raise
            return False
    return True
