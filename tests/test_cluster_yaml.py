"""cluster.yaml and the files in deploy/, as far as they can be checked without the machines that they are for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.aws import node_provider as ray_s_provider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
CLUSTER_FILES = [ROOT / "cluster.yaml", ROOT / "deploy" / "on_prem.yaml", ROOT / "deploy" / "gcp.yaml"]
TEMPLATE = ROOT / "deploy" / "aws_account.yaml"
REGION = "us-west-2"
boto3: Any = pytest.importorskip("boto3", reason="boto3 is not installed: pip install 'moto[server]'")
AWSNodeProvider: Any = ray_s_provider.AWSNodeProvider
# What EC2 has, which `ray up` asks it for.
G5_XLARGE, G5_12XLARGE = {"CPU": 4, "GPU": 1, "memory": 12 * 10**9}, {"CPU": 48, "GPU": 4, "memory": 144 * 10**9}


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def template() -> dict[str, Any]:
    """The template, where what CloudFormation fills in stands as it is written: !Ref WorkerRole as "WorkerRole"."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, tag, node: node.value)
    # A safe loader, which knows a few tags more.
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text(encoding="utf-8"), Loader=Loader)
    return loaded


@pytest.fixture(params=CLUSTER_FILES, ids=lambda path: path.name)
def cluster_file(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Every file that `ray up` may be given."""
    return read(request.param)


@pytest.fixture
def aws() -> dict[str, Any]:
    return read(ROOT / "cluster.yaml")


def test_ray_accepts_every_cluster_file(cluster_file: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster_file))


def test_what_a_head_serves_is_served_on_its_loopback(cluster_file: dict[str, Any]) -> None:
    commands = " ".join(cluster_file["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands
    assert "mlflow server --host 127.0.0.1" in commands
    assert "0.0.0.0" not in commands
    assert "--ray-client-server-port" not in commands


def test_every_node_wants_the_token_and_gets_it_as_a_file(cluster_file: dict[str, Any]) -> None:
    assert cluster_file["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [
        command
        for commands in (cluster_file["head_start_ray_commands"], cluster_file["worker_start_ray_commands"])
        for command in commands
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command and "RAY_AUTH_TOKEN" not in command for command in starts)


@pytest.mark.parametrize(("path", "cloud"), [("cluster.yaml", "aws"), ("deploy/gcp.yaml", "gcp")])
def test_every_worker_in_a_cloud_waits_for_the_notice_that_it_is_taken_away(path: str, cloud: str) -> None:
    *_, start, wait = read(ROOT / path)["worker_start_ray_commands"]
    assert "ray start" in start
    assert f"python -m tuner.spot {cloud}" in wait
    subprocess.run(["bash", "-n", "-c", wait], check=True)


def test_the_head_takes_no_trials(cluster_file: dict[str, Any]) -> None:
    assert "--num-cpus=0 --num-gpus=0" in " ".join(cluster_file["head_start_ray_commands"])


def test_a_login_shell_finds_the_ray_that_was_installed(cluster_file: dict[str, Any], tmp_path: Path) -> None:
    """`ray down` stops the head's Ray in one; a line that is there already isn't put there again."""
    ray = tmp_path / "fcn-tuner-env" / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.touch(mode=0o755)
    (command,) = [line for line in cluster_file["setup_commands"] if ".bashrc" in line]
    home = {**os.environ, "HOME": str(tmp_path)}
    for _ in range(2):
        subprocess.run(["bash", "-c", command], env=home, check=True)
    assert (tmp_path / ".bashrc").read_text().count("fcn-tuner-env") == 1
    shell = ["bash", "--login", "-c", "-i", "source ~/.bashrc; command -v ray"]  # as Ray's launcher has it
    found = subprocess.run(shell, env=home, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert found.stdout.strip() == str(ray), found.stderr


def test_workers_on_aws_come_only_when_trials_wait(aws: dict[str, Any]) -> None:
    workers = {name: type_ for name, type_ in aws["available_node_types"].items() if name != "head"}
    assert {name.rpartition("gpu")[2] for name in workers} == {"1_spot", "1_on_demand", "4_spot", "4_on_demand"}
    assert all(type_.get("min_workers", 0) == 0 for type_ in workers.values())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Ray keeps the key pair that it makes."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def account(home: Path) -> Iterator[str]:
    """An AWS account of moto's, with what deploy/aws_account.yaml makes in it; the security group's id."""
    moto = pytest.importorskip("moto", reason="moto is not installed: pip install 'moto[server]'")
    for cache in (client_cache, resource_cache):
        cache.cache_clear()
    with pytest.MonkeyPatch.context() as environment, moto.mock_aws():
        environment.setenv("HOME", str(home))
        cloudformation = boto3.client("cloudformation", REGION)
        cloudformation.create_stack(
            StackName="fcn-tuner",
            TemplateBody=TEMPLATE.read_text(encoding="utf-8"),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[
                {"ParameterKey": "Bucket", "ParameterValue": "bucket"},
                {"ParameterKey": "SshFrom", "ParameterValue": "203.0.113.7/32"},
            ],
        )
        (output,) = cloudformation.describe_stacks(StackName="fcn-tuner")["Stacks"][0]["Outputs"]
        yield output["OutputValue"]
    for cache in (client_cache, resource_cache):
        cache.cache_clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # moto's and botocore's own
def test_ray_starts_machines_of_the_file_in_an_account_made_by_the_template(
    account: str, aws: dict[str, Any], home: Path
) -> None:
    """As `ray up` and the autoscaler do it: botocore checks each request against EC2's own model of it."""
    for name, type_ in aws["available_node_types"].items():
        assert type_["node_config"]["SecurityGroupIds"] == ["sg-00000000000000000"]
        type_["node_config"]["SecurityGroupIds"] = [account]
        type_["resources"] = type_["resources"] or (G5_XLARGE if name.startswith("gpu1") else G5_12XLARGE)
    config = AWSNodeProvider.bootstrap_config(prepare_config(aws))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, type_ in config["available_node_types"].items():
        provider.create_node(type_["node_config"], {"ray-user-node-type": name}, 1)

    ec2 = boto3.client("ec2", REGION)
    started = [machine for group in ec2.describe_instances()["Reservations"] for machine in group["Instances"]]
    of_type = {tag["Value"]: one for one in started for tag in one["Tags"] if tag["Key"] == "ray-user-node-type"}
    assert {name: machine["InstanceType"] for name, machine in of_type.items()} == {
        "head": "m6i.large",
        "gpu1_spot": "g5.xlarge",
        "gpu1_on_demand": "g5.xlarge",
        "gpu4_spot": "g5.12xlarge",
        "gpu4_on_demand": "g5.12xlarge",
    }
    for name, machine in of_type.items():
        assert machine["MetadataOptions"]["HttpTokens"] == "required", "IMDSv2 alone"
        assert machine["IamInstanceProfile"]["Arn"].endswith("fcn-tuner-head" if name == "head" else "fcn-tuner-worker")
        assert (machine.get("InstanceLifecycle") == "spot") == name.endswith("_spot")
        assert [group["GroupId"] for group in machine["SecurityGroups"]] == [account]
    # Ray added no rule, and made no role.
    rules = ec2.describe_security_groups(GroupIds=[account])["SecurityGroups"][0]["IpPermissions"]
    reachable_from = {(rule.get("FromPort"), a["CidrIp"]) for rule in rules for a in rule["IpRanges"]}
    assert reachable_from == {(22, "203.0.113.7/32")}
    assert [pair["GroupId"] for rule in rules for pair in rule["UserIdGroupPairs"]] == [account]
    profiles = boto3.client("iam", REGION).list_instance_profiles()["InstanceProfiles"]
    assert {profile["InstanceProfileName"] for profile in profiles} == {"fcn-tuner-head", "fcn-tuner-worker"}
    key = home / ".ssh" / f"ray-autoscaler_{REGION}.pem"
    assert key.stat().st_mode & 0o077 == 0


def test_a_worker_may_use_the_bucket_and_nothing_else_and_the_head_may_hand_on_that_alone() -> None:
    resources = template()["Resources"]
    assert "Policies" not in resources["WorkerRole"]["Properties"]
    assert resources["WorkerRole"]["Properties"]["ManagedPolicyArns"] == ["BucketPolicy"]
    bucket = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert all(action.startswith("s3:") for statement in bucket for action in statement["Action"])
    assert all("${Bucket}" in statement["Resource"] for statement in bucket)
    (policy,) = resources["HeadRole"]["Properties"]["Policies"]
    handed_on = [one for one in policy["PolicyDocument"]["Statement"] if one["Action"] == "iam:PassRole"]
    assert [one["Resource"] for one in handed_on] == ["WorkerRole.Arn"]


def test_the_template_has_no_aliases_of_yaml_which_cloudformation_does_not_read() -> None:
    assert not [
        event for event in yaml.parse(TEMPLATE.read_text(encoding="utf-8")) if isinstance(event, yaml.AliasEvent)
    ]
