"""What `ray_cluster.yaml` needs on AWS, made once: a firewall, a bucket, and the number of an image.

    python clusters/aws_setup.py --region us-west-2 --ssh-from 203.0.113.7/32 --bucket my-lab-hilbert

Called again it changes nothing but the address that may use ssh. It makes no machine and costs nothing.
"""

import argparse
import ipaddress
import sys
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
LARGEST_NETWORK = 16
"""Bits of the largest network that ssh may be opened to."""
SOURCES = {"IpRanges", "Ipv6Ranges", "PrefixListIds"}


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


def image(ssm: Any) -> str:
    """The newest image of Ubuntu 24.04 with NVIDIA's driver, by Amazon."""
    return str(ssm.get_parameter(Name=IMAGE)["Parameter"]["Value"])


def main(arguments: list[str] | None = None) -> int:
    """Makes what is missing and prints the values for `ray_cluster.yaml`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--region", required=True)
    parser.add_argument("--ssh-from", required=True, type=network, help="your address, e.g. 203.0.113.7/32")
    parser.add_argument("--bucket", required=True, help="for MLflow's artifacts")
    parser.add_argument("--name", default="hilbert", help="of the security group")
    options = parser.parse_args(arguments)
    region = options.region
    try:
        print(f"ImageId: {image(boto3.client('ssm', region))}")
        group = firewall(boto3.client("ec2", region), name=options.name, ssh_from=options.ssh_from)
        print(f"SecurityGroupIds: [{group}]")
        print(f"BUCKET={bucket(boto3.client('s3', region), name=options.bucket, region=region)}")
    except (BotoCoreError, ClientError, LookupError) as error:
        print(f"aws_setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
