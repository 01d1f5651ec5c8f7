"""The deployment's files: each against what reads it, and all against each other. Nothing here needs Docker."""

import ipaddress
import re
import shutil
import subprocess

import pytest
from conftest import REPOSITORY
from deployment import (
    COMPOSE,
    CONFIG,
    GUIDE,
    KUBERNETES,
    MESSAGES,
    PAGE,
    PROTOS,
    SERVER,
    SERVING,
    container,
    parse,
    pod,
    the_model,
)
from google.protobuf import text_format
from proto_reader import message_types

from export.warmup import BATCH_SIZES

COMPOSE_LIMITS = COMPOSE["services"]["serving"]["deploy"]["resources"]["limits"]
KUBERNETES_LIMITS = container("ladnn-serving")["resources"]["limits"]

# Of those in `flag_list` of tensorflow/serving, tensorflow_serving/model_servers/main.cc at the commit
# 94f2d6944f310069ebd527a52649fe3c001c38e3, that may be used here.
SERVER_FLAGS = {
    "port",
    "rest_api_port",
    "rest_api_num_threads",
    "grpc_max_threads",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "allow_version_labels_for_unavailable_models",
    "enable_batching",
    "batching_parameters_file",
    "monitoring_config_file",
    "ssl_config_file",
    "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism",
    "enable_profiler",
}


# The text-format files


@pytest.mark.parametrize("name", MESSAGES)
def test_files_parse_as_their_messages_and_a_misspelt_field_does_not(name):
    message = parse(name)
    assert message.ListFields()
    text = (CONFIG / name).read_text(encoding="utf-8")
    field = re.search(r"^\s*(\w+)\s*[:{]", text, re.MULTILINE)[1]
    with pytest.raises(text_format.ParseError, match=f"{field}s"):
        parse(name, re.sub(rf"^(\s*){field}\b", rf"\1{field}s", text, count=1, flags=re.MULTILINE))


def test_the_folder_holds_nothing_that_no_flag_names():
    named = {path.rpartition("/")[2] for flags in SERVER.values() for path in flags.values() if "/config/" in path}
    assert named == set(MESSAGES)
    assert {path.name for path in CONFIG.iterdir()} == {*named, "available.sh"}


def test_a_reader_of_proto_files_refuses_what_it_does_not_know(tmp_path):
    path = tmp_path / "odd.proto"
    path.write_text('syntax = "proto3";\npackage a.b;\nmessage M {\n  map<string, int64> counts = 1;\n}\n')
    with pytest.raises(ValueError, match=r"line 4: 'map<string, int64> counts = 1;' is not understood"):
        message_types(path)


def test_messages_have_the_numbers_of_tensorflow_serving():
    # Those of tensorflow/serving at these commits:
    # 03f8b6b5fceec0df896da1e85d02b101b4ff2b7a tensorflow_serving/servables/tensorflow/session_bundle_config.proto
    # 021efbd3281aa815cab0b35eab6d6d25249c12d4 tensorflow_serving/config/monitoring_config.proto
    # 4bc435b55ae46a03192ba0191e3bd76d5cf5e17c tensorflow_serving/config/ssl_config.proto
    # max_batch_size { value: 8 } is field 1, allowed_batch_sizes: 8 field 6, packed, and the boolean field 7.
    message = PROTOS["BatchingParameters"](allowed_batch_sizes=[8], pad_variable_length_inputs=True)
    message.max_batch_size.value = 8
    assert message.SerializeToString() == bytes([1 << 3 | 2, 2, 1 << 3, 8, 6 << 3 | 2, 1, 8, 7 << 3, 1])
    prometheus = PROTOS["MonitoringConfig"](prometheus_config={"enable": True, "path": "/p"})
    assert prometheus.SerializeToString() == b"\x0a\x06\x08\x01\x12\x02/p"
    assert PROTOS["SSLConfig"](client_verify=True).SerializeToString() == bytes([4 << 3, 1])
    keys = PROTOS["SSLConfig"](server_key="k", server_cert="c", custom_ca="a")
    assert keys.SerializeToString() == b"\x0a\x01k\x12\x01c\x1a\x01a"


def test_labels_stand_for_listed_versions():
    model = the_model()
    assert (model.name, model.model_platform) == ("ladnn", "tensorflow")
    assert list(model.model_version_policy.specific.versions) == [1, 2]
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}


def test_batches_have_the_sizes_that_were_warmed_up():
    batching = parse("batching.config")
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) == list(BATCH_SIZES)
    assert sizes[-1] == batching.max_batch_size.value
    assert not batching.pad_variable_length_inputs
    assert batching.num_batch_threads.value == int(COMPOSE_LIMITS["cpus"])


# Compose and Kubernetes against the files and each other


@pytest.mark.parametrize("where", SERVER)
def test_flags_of_the_server(where):
    flags = SERVER[where]
    assert set(flags) <= SERVER_FLAGS
    assert flags["allow_version_labels_for_unavailable_models"] == "true"  # labels are in the file from the start
    assert int(flags["model_config_file_poll_wait_seconds"]) > 0  # else labels do not move
    assert flags["enable_batching"] == "true"  # without it the parameters are an error


def test_compose_and_kubernetes_run_the_same():
    assert SERVER["compose"] == SERVER["kubernetes"]
    differing = {"serving_url", "token_file", "allowed_host", "trusted_proxy"}
    page = {where: {name: flags[name] for name in flags.keys() - differing} for where, flags in PAGE.items()}
    assert page["compose"] == page["kubernetes"]
    assert COMPOSE["services"]["serving"]["image"] == container("ladnn-serving")["image"]
    assert COMPOSE["services"]["serving"]["entrypoint"] == container("ladnn-serving")["command"]
    assert COMPOSE["services"]["page"]["image"] == container("ladnn-page")["image"]


def test_images_are_pinned_to_releases():
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    exported_by = re.search(r"^tensorflow==(\d+\.\d+)\.", lock, re.MULTILINE)[1]
    digest = "(@sha256:[0-9a-f]{64})?"  # which an installation adds
    image = COMPOSE["services"]["serving"]["image"]
    assert re.fullmatch(rf"tensorflow/serving:{exported_by}\.\d+{digest}", image)
    dockerfile = (SERVING / "Dockerfile").read_text(encoding="utf-8")
    images = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(set(images)) == 1
    assert re.fullmatch(rf"python:3\.11\.\d+-slim-\w+{digest}", images[0])
    for name in (image, images[0]):
        assert f"`{name.partition('@')[0]}`" in GUIDE


@pytest.mark.parametrize("where", SERVER)
def test_processors_are_those_that_the_server_is_told(where):
    processors = {"compose": COMPOSE_LIMITS["cpus"], "kubernetes": KUBERNETES_LIMITS["cpu"]}[where]
    assert SERVER[where]["tensorflow_intra_op_parallelism"] == processors
    assert SERVER[where]["tensorflow_inter_op_parallelism"] == processors


def mebibytes(text):
    number, unit = re.fullmatch(r"(\d+)([MG])i?", text).groups()
    return int(number) * {"M": 1, "G": 1024}[unit]


def test_memory_limits_hold_what_was_measured():
    rows = re.findall(r"^\| \w+ \|(?: [\d,]+ \|){3} ([\d,]+) \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 4
    largest = max(int(figure.replace(",", "")) for figure in rows)
    assert largest > 1000
    for limits in (COMPOSE_LIMITS, KUBERNETES_LIMITS):
        assert mebibytes(limits["memory"]) * 2**20 > 1.5 * largest * 1e6


def test_ports_of_compose_are_on_loopback_and_those_that_are_listened_on():
    published = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in published)
    server, page = SERVER["compose"], PAGE["compose"]
    inside = {port.split(":")[-1] for port in published}
    assert inside == {server["port"], server["rest_api_port"], page["port"]}
    assert page["serving_url"] == f"http://serving:{server['rest_api_port']}"


def test_the_trusted_proxy_is_this_machine_as_a_container_sees_it():
    (network,) = COMPOSE["networks"]["default"]["ipam"]["config"]
    assert PAGE["compose"]["trusted_proxy"] == network["gateway"]
    assert ipaddress.ip_address(network["gateway"]) in ipaddress.ip_network(network["subnet"])


def test_ports_of_kubernetes():
    server, page = SERVER["kubernetes"], PAGE["kubernetes"]
    ports = {port["name"]: str(port["containerPort"]) for port in container("ladnn-serving")["ports"]}
    assert ports == {"grpc": server["port"], "rest": server["rest_api_port"]}
    assert [str(port["containerPort"]) for port in container("ladnn-page")["ports"]] == [page["port"]]
    service = KUBERNETES["Service", "ladnn-serving"]["spec"]["ports"]
    assert {port["targetPort"]: str(port["port"]) for port in service} == ports
    assert page["serving_url"] == f"http://ladnn-serving:{server['rest_api_port']}"
    for name in ("ladnn-serving", "ladnn-page"):
        labels = KUBERNETES["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        assert KUBERNETES["Deployment", name]["spec"]["selector"]["matchLabels"] == labels
        assert KUBERNETES["Service", name]["spec"]["selector"] == labels
    policy = KUBERNETES["NetworkPolicy", "ladnn-serving"]["spec"]
    assert policy["podSelector"]["matchLabels"] == {"app": "ladnn-serving"}
    (rule,) = policy["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["rest"]  # over gRPC anybody can change the configuration


def test_the_page_asks_for_the_model_and_the_label_that_are_served():
    model = the_model()
    for flags in PAGE.values():
        assert flags["serving_model"] == model.name
        assert flags["serving_label"] in model.version_labels


def test_what_compose_mounts_is_where_the_flags_and_the_configuration_look():
    mounts = {mount["target"]: mount for mount in COMPOSE["services"]["serving"]["volumes"]}
    assert set(mounts) == {"/models", "/config"}
    assert all(mount["read_only"] and not mount["bind"]["create_host_path"] for mount in mounts.values())
    assert mounts["/config"]["source"] == "./config"
    assert the_model().base_path == "/models/ladnn"
    (secret,) = COMPOSE["secrets"]
    assert PAGE["compose"]["token_file"] == f"/run/secrets/{secret}"
    assert COMPOSE["services"]["page"]["secrets"] == [secret]


def test_what_kubernetes_mounts_exists_and_is_where_the_flags_look():
    for name in ("ladnn-serving", "ladnn-page"):
        volumes = {volume["name"]: volume for volume in pod(name)["volumes"]}
        mounts = {mount["name"]: mount for mount in container(name)["volumeMounts"]}
        assert volumes.keys() == mounts.keys()
        assert not any("subPath" in mount for mount in mounts.values())  # which does not follow changes
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or ("PersistentVolumeClaim", claim["claimName"]) in KUBERNETES
    mounts = {mount["name"]: mount for mount in container("ladnn-serving")["volumeMounts"]}
    assert {name for name, mount in mounts.items() if mount.get("readOnly")} == {"models", "config"}
    assert (mounts["models"]["mountPath"], mounts["config"]["mountPath"]) == ("/models", "/config")
    mounts = {mount["name"]: mount["mountPath"] for mount in container("ladnn-page")["volumeMounts"]}
    assert PAGE["kubernetes"]["token_file"] == f"{mounts['token']}/page_token"


@pytest.mark.parametrize("where", PAGE)
def test_nothing_is_collected_unless_somebody_says_so(where):
    assert not {"data", "database"} & PAGE[where].keys()


def test_no_volume_is_kept_for_a_collection_that_is_off():
    assert "volumes" not in COMPOSE
    assert "volumes" not in COMPOSE["services"]["page"]
    assert [name for kind, name in KUBERNETES if kind == "PersistentVolumeClaim"] == ["ladnn-models"]
    assert not any("persistentVolumeClaim" in volume for volume in pod("ladnn-page")["volumes"])


def test_a_volume_of_one_node_and_the_memory_of_one_pod_have_one_pod_at_a_time():
    server = KUBERNETES["Deployment", "ladnn-serving"]["spec"]
    assert KUBERNETES["PersistentVolumeClaim", "ladnn-models"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert (server["replicas"], server["strategy"]) == (1, {"type": "Recreate"})
    assert "fsGroup" not in pod("ladnn-serving")["securityContext"]  # nothing there that it would change
    assert "fsGroup" in pod("ladnn-page")["securityContext"]  # the token, which is root's
    (token,) = (volume["secret"] for volume in pod("ladnn-page")["volumes"] if "secret" in volume)
    assert token["defaultMode"] & 0o040


def test_config_map_and_secret_have_the_names_that_the_comment_makes():
    comment = (SERVING / "kubernetes.yaml").read_text(encoding="utf-8").split("apiVersion", 1)[0]
    volumes = [volume for name in ("ladnn-serving", "ladnn-page") for volume in pod(name)["volumes"]]
    (config,) = (volume["configMap"]["name"] for volume in volumes if "configMap" in volume)
    (secret,) = (volume["secret"]["secretName"] for volume in volumes if "secret" in volume)
    assert f"create configmap {config} --from-file=serving/config " in comment
    assert f"create secret generic {secret} --from-literal=page_token=" in comment


# Security


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_containers_of_compose_can_do_no_more_than_they_must(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "devices", "ipc"}
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]


@pytest.mark.parametrize("name", ["ladnn-serving", "ladnn-page"])
def test_pods_can_do_no_more_than_they_must(name):
    found, inside = pod(name), container(name)
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["runAsUser"] == int(COMPOSE["services"]["page"]["user"].split(":")[0])
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert found["automountServiceAccountToken"] is False
    assert inside["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert inside["resources"].keys() == {"requests", "limits"}
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= inside.keys()


def test_compose_file_by_docker_itself(tmp_path):
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("docker is not installed")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed")
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    command = [docker, "compose", "--file", SERVING / "docker-compose.yml", "config", "--quiet"]
    subprocess.run(command, env={"LADNN_TOKEN_FILE": str(token), "PATH": "/usr/bin:/bin"}, check=True)
