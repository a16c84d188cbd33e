"""What `ray_cluster.yaml` needs on AWS, made once: a firewall, a bucket, two roles, and the number of an image.

    python clusters/aws_setup.py --region us-west-2 --ssh-from 203.0.113.7/32 --bucket my-lab-hilbert

Called again it changes nothing but the address that may use ssh. It makes no machine and costs nothing.

The roles say what machines may do in the account without anybody's keys. Workers read the bucket and do nothing else.
The head reads and writes it, and starts machines that have the workers' role, in this region, and marks, stops and ends
those, and no others. Ray's own role may do everything with EC2, writes to every bucket, and can't hand a role on.
The bucket can't be made public, and is reached by TLS alone.
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

MOVES = ("ec2:StartInstances", "ec2:StopInstances", "ec2:TerminateInstances")
SPOT_ROLE = "aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"
PATH = "/hilbert/"
"""Of what is made here among the account's roles: by it a role is known again."""
POLICY = "hilbert"
UNKNOWN = {"NoSuchEntity", "NoSuchBucketPolicy", "NoSuchPublicAccessBlockConfiguration"}
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
    """Makes a bucket that can't be made public and is reached by TLS alone; one that is there already is kept.

    Of such a one only what it lacks altogether is added; what it lacks otherwise is said.
    """
    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3.create_bucket(Bucket=name, **place)
    locks = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    blocked = _found(s3.get_public_access_block, Bucket=name).get("PublicAccessBlockConfiguration")
    if blocked is None:
        s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=locks)
    elif blocked != locks:
        print(f"aws_setup: {name} may be made public, as somebody has set it; it is left so", file=sys.stderr)
    policy = _found(s3.get_bucket_policy, Bucket=name).get("Policy")
    if policy is None:
        s3.put_bucket_policy(Bucket=name, Policy=json.dumps(_tls_alone(name)))
    elif "aws:SecureTransport" not in policy:
        print(f"aws_setup: {name} has a policy that lets in requests without TLS; it is left so", file=sys.stderr)
    return name


def _tls_alone(bucket: str) -> dict[str, Any]:
    """The policy of a bucket that refuses requests without TLS."""
    arn = f"arn:aws:s3:::{bucket}"
    without = {"Bool": {"aws:SecureTransport": "false"}}
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [arn, f"{arn}/*"], "Condition": without}
    return {"Version": "2012-10-17", "Statement": [{"Sid": "TlsAlone", **deny}]}


def roles(iam: Any, *, name: str, bucket: str, region: str) -> tuple[str, str]:
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
    machines = _machines(arn.replace(":role/", ":instance-profile/"), region)
    _role(iam, name=head, statements=[*_reading(bucket), _writing(bucket), hand_on, *machines])
    return head, worker


def _machines(profile: str, region: str) -> list[dict[str, Any]]:
    """What Ray's autoscaler asks EC2 for, of machines that have an instance profile, and of those alone."""
    account = profile.split(":")[4]
    here = f"arn:aws:ec2:{region}:{account}"
    theirs = {"ArnEquals": {"ec2:InstanceProfile": profile}}
    parts = [f"{here}:{kind}/*" for kind in ("key-pair", "network-interface", "security-group", "subnet", "volume")]
    parts += [f"{here}:spot-instances-request/*", f"arn:aws:ec2:{region}::image/*"]
    new = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
    spot = {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}}  # its own role, which the first one makes
    return [
        {**_allow("ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeImages", on="*")},
        {**_allow("ec2:RunInstances", on=f"{here}:instance/*"), "Condition": theirs},
        {**_allow("ec2:RunInstances", on=parts)},
        {**_allow("ec2:CreateTags", *MOVES, on=f"{here}:instance/*"), "Condition": theirs},
        {**_allow("ec2:CreateTags", on=f"{here}:instance/*"), "Condition": new},
        {**_allow("iam:CreateServiceLinkedRole", on=f"arn:aws:iam::{account}:role/{SPOT_ROLE}"), "Condition": spot},
    ]


def _allow(*actions: str, on: str | list[str]) -> dict[str, Any]:
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


def _role(iam: Any, *, name: str, statements: list[dict[str, Any]]) -> str:
    """Makes a role that machines may have, with an instance profile of its name; what is right is left alone.

    Args:
        iam: the client.
        name: of both.
        statements: what the role may do, and all that it may do.

    Returns:
        The role's ARN.
    """
    role = _found(iam.get_role, RoleName=name) or iam.create_role(
        RoleName=name, Path=PATH, AssumeRolePolicyDocument=json.dumps(TRUST)
    )
    policy = {"Version": "2012-10-17", "Statement": statements}
    if _found(iam.get_role_policy, RoleName=name, PolicyName=POLICY).get("PolicyDocument") != policy:
        iam.put_role_policy(RoleName=name, PolicyName=POLICY, PolicyDocument=json.dumps(policy))
    for each in iam.list_attached_role_policies(RoleName=name)[
        "AttachedPolicies"
    ]:  # an earlier version's, of all of EC2
        iam.detach_role_policy(RoleName=name, PolicyArn=each["PolicyArn"])
    profile = _found(iam.get_instance_profile, InstanceProfileName=name) or iam.create_instance_profile(
        InstanceProfileName=name, Path=PATH
    )
    if not profile["InstanceProfile"]["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return str(role["Role"]["Arn"])


def _found(ask: Callable[..., dict[str, Any]], **which: str) -> dict[str, Any]:
    """What AWS answers; nothing where it knows no such thing."""
    try:
        return ask(**which)
    except ClientError as error:
        if error.response["Error"]["Code"] not in UNKNOWN:
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
        named = roles(boto3.client("iam", region), name=options.name, bucket=options.bucket, region=region)
        print(f"IamInstanceProfile: {', '.join(named)}")
        group = firewall(boto3.client("ec2", region), name=options.name, ssh_from=options.ssh_from)
        print(f"SecurityGroupIds: [{group}]")
    except (BotoCoreError, ClientError, LookupError) as error:
        print(f"aws_setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
