"""What `ray_cluster.yaml` needs on AWS, made once: a firewall, a bucket, two roles, and the number of an image.

    python clusters/aws_setup.py --region us-west-2 --ssh-from 203.0.113.7/32 --bucket my-lab-hilbert

Called again it changes nothing but the address that may use ssh. It makes no machine and costs nothing.

The roles say what machines may do in the account without anybody's keys. Workers read the bucket and do nothing else.
The head reads and writes it, and starts machines: with Amazon's policy for that, which Ray gives its own role too, and
with leave to hand the workers' role on, and no other. Ray's own role hasn't that leave, and writes to every bucket.
"""

import argparse
import ipaddress
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
LARGEST_NETWORK = 16
"""Bits of the largest network that ssh may be opened to."""
SOURCES = {"IpRanges", "Ipv6Ranges", "PrefixListIds"}

START_MACHINES = "arn:aws:iam::aws:policy/AmazonEC2FullAccess"
PATH = "/hilbert/"
"""Of what is made here among the account's roles: by it a role is known again."""
POLICY = "hilbert"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def network(text: str) -> str:
    """The address or network that may use ssh.

    Raises:
        argparse.ArgumentTypeError: it is none, or so large that it is nearly everybody.
    """
    try:
        found = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; right would be 203.0.113.7/32") from None
    if found.prefixlen < LARGEST_NETWORK:
        raise argparse.ArgumentTypeError(f"{text} is not you but {found.num_addresses:,} addresses; name your own, /32")
    return str(found)


def firewall(ec2: Any, *, name: str, ssh_from: str) -> str:
    """Makes or changes the security group of the default network: ssh from one network, everything among members.

    Raises:
        LookupError: the region has no default network.
    """
    networks = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not networks:
        raise LookupError("this region has no default VPC; 'aws ec2 create-default-vpc' makes one")
    place = networks[0]["VpcId"]
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [place]}]
    there = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    if there:
        group, rules = there[0]["GroupId"], there[0]["IpPermissions"]
    else:
        made = ec2.create_security_group(GroupName=name, Description="HILBERT: ssh from one address", VpcId=place)
        group, rules = made["GroupId"], []
    outside = [_from_outside(rule) for rule in rules if _from_outside(rule).keys() & SOURCES]
    if outside:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=outside)
    wanted = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ssh_from}]}]
    if not any(rule["UserIdGroupPairs"] for rule in rules):
        wanted.append({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]})
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=wanted)
    return str(group)


def _from_outside(rule: dict[str, Any]) -> dict[str, Any]:
    """What of a rule lets in others than members; they are never cut off, since they may be at work."""
    return {key: value for key, value in rule.items() if value and key != "UserIdGroupPairs"}


def bucket(s3: Any, *, name: str, region: str) -> str:
    """Makes a bucket that can't be made public; one that is there already is kept."""
    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3.create_bucket(Bucket=name, **place)
        locks = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=dict.fromkeys(locks, True))
    return name


def roles(iam: Any, *, name: str, bucket: str) -> tuple[str, str]:
    """Makes the roles of a cluster's machines, the head's and the workers', each with its instance profile.

    Raises:
        LookupError: roles of these names are there for another bucket, or are somebody else's; they stay as they are.
    """
    head, worker = f"{name}-head", f"{name}-worker"
    for each in (head, worker):
        _check_role(iam, name=each, bucket=bucket)
    arn = _role(iam, name=worker, statements=_reading(bucket))
    hand_on = {
        **_allow("iam:PassRole", on=arn),
        "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
    }
    _role(iam, name=head, statements=[*_reading(bucket), _writing(bucket), hand_on], policies=(START_MACHINES,))
    return head, worker


def _allow(*actions: str, on: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": on}


def _reading(bucket: str) -> list[dict[str, Any]]:
    return [_allow("s3:ListBucket", on=f"arn:aws:s3:::{bucket}"), _allow("s3:GetObject", on=f"arn:aws:s3:::{bucket}/*")]


def _writing(bucket: str) -> dict[str, Any]:
    return _allow("s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject", on=f"arn:aws:s3:::{bucket}/*")


def _check_role(iam: Any, *, name: str, bucket: str) -> None:
    """Whether a role and profile of this name are ours and for this bucket, where there are any.

    Raises:
        LookupError: they aren't.
    """
    role = _found(iam.get_role, RoleName=name)
    profile = _found(iam.get_instance_profile, InstanceProfileName=name)
    if any(there["Path"] != PATH for there in (role.get("Role"), profile.get("InstanceProfile")) if there):
        raise LookupError(f"{name} is there already, and isn't HILBERT's; another --name makes roles of its own")
    policy = _found(iam.get_role_policy, RoleName=name, PolicyName=POLICY).get("PolicyDocument", {})
    others = set(re.findall(r"arn:aws:s3:::([^/\"]+)", json.dumps(policy))) - {bucket}
    if others:
        raise LookupError(f"{name} is for the bucket {min(others)}; another --name makes roles of its own")


def _role(iam: Any, *, name: str, statements: list[dict[str, Any]], policies: tuple[str, ...] = ()) -> str:
    """Makes a role that machines may have, with an instance profile of its name; what is right is left alone.

    Args:
        iam: the client.
        name: of both.
        statements: what the role may do.
        policies: Amazon's own policies that it has, too.

    Returns:
        The role's ARN.
    """
    role = _found(iam.get_role, RoleName=name) or iam.create_role(
        RoleName=name, Path=PATH, AssumeRolePolicyDocument=json.dumps(TRUST)
    )
    policy = {"Version": "2012-10-17", "Statement": statements}
    if _found(iam.get_role_policy, RoleName=name, PolicyName=POLICY).get("PolicyDocument") != policy:
        iam.put_role_policy(RoleName=name, PolicyName=POLICY, PolicyDocument=json.dumps(policy))
    attached = {each["PolicyArn"] for each in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]}
    for missing in set(policies) - attached:
        iam.attach_role_policy(RoleName=name, PolicyArn=missing)
    profile = _found(iam.get_instance_profile, InstanceProfileName=name) or iam.create_instance_profile(
        InstanceProfileName=name, Path=PATH
    )
    if not profile["InstanceProfile"]["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return str(role["Role"]["Arn"])


def _found(ask: Callable[..., dict[str, Any]], **which: str) -> dict[str, Any]:
    """What IAM answers; nothing where it knows no such thing."""
    try:
        return ask(**which)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchEntity":
            raise
        return {}


def image(ssm: Any) -> str:
    """The newest image of Ubuntu 24.04 with NVIDIA's driver, by Amazon."""
    return str(ssm.get_parameter(Name=IMAGE)["Parameter"]["Value"])


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing and prints the values for `ray_cluster.yaml`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--region", required=True)
    parser.add_argument("--ssh-from", required=True, type=network, help="your address, e.g. 203.0.113.7/32")
    parser.add_argument("--bucket", required=True, help="for MLflow's artifacts and large features")
    parser.add_argument(
        "--name", default="hilbert", help="of the security group, and NAME-head, NAME-worker of the roles"
    )
    options = parser.parse_args(arguments)
    region = options.region
    try:
        print(f"ImageId: {image(boto3.client('ssm', region))}")
        # roles after the bucket: never for one that isn't yours; the firewall last: where they are refused, it stays
        print(f"BUCKET={bucket(boto3.client('s3', region), name=options.bucket, region=region)}")
        named = roles(boto3.client("iam", region), name=options.name, bucket=options.bucket)
        print(f"IamInstanceProfile: {', '.join(named)}")
        group = firewall(boto3.client("ec2", region), name=options.name, ssh_from=options.ssh_from)
        print(f"SecurityGroupIds: [{group}]")
    except (BotoCoreError, ClientError, LookupError) as error:
        print(f"aws_setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
