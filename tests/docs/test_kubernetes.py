"""The Kubernetes manifests: each overlay is resolved and compared with the schemas; its commands are the program's."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from etl.collecting.valkey.link import EXPECTED
from tests.docs.test_schedules import FINAL
from tests.support import in_process
from tests.support.checkout import ROOT
from tests.support.kustomize import Document, resolved
from tests.support.site import Site

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("development", "production", "production-green", "production-collect")
BESIDE = OVERLAYS[2:]  # beside production, which has accounts and settings
VALIDATE = ROOT / ".venv-contract" / "bin" / "kubernetes-validate"


def named(overlay: str) -> dict[tuple[str, str], Document]:
    """Return the documents of an overlay by their kind and name."""
    return {(each["kind"], each["metadata"]["name"]): each for each in resolved(FOLDER / "overlays" / overlay)}


def pods(overlay: str) -> dict[str, Document]:
    """Return the templates of all pods of an overlay, by the name of what makes them."""
    found = {}
    for (kind, name), document in named(overlay).items():
        spec = document.get("spec", {})
        spec = spec["jobTemplate"]["spec"] if kind == "CronJob" else spec
        if "template" in spec:
            found[name] = spec["template"]
    return found


def claimed(documents: dict[tuple[str, str], Document], name: str) -> list[Document]:
    """Return the volumes that a StatefulSet claims for its pods."""
    return [each["metadata"] for each in documents["StatefulSet", name]["spec"]["volumeClaimTemplates"]]


def test_every_file_is_a_part_of_an_overlay() -> None:
    """No manifest is forgotten, and each document of an overlay has a kind and a name of its own."""
    for overlay in OVERLAYS:
        assert len(named(overlay)) == len(resolved(FOLDER / "overlays" / overlay))
    listed = {
        (path.parent / name).resolve()
        for path in FOLDER.rglob("kustomization.yaml")
        for name in yaml.safe_load(path.read_text())["resources"]
    }
    roots = {FOLDER / "overlays" / overlay for overlay in OVERLAYS}
    files = {path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml"}
    folders = {path.parent for path in FOLDER.rglob("kustomization.yaml")}
    assert files | folders == listed | roots


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_reads_the_same(overlay: str) -> None:
    """Kubectl resolves each overlay to the documents that the other tests look at."""
    done = subprocess.run(
        ["kubectl", "kustomize", FOLDER / "overlays" / overlay], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    assert found == named(overlay)


@pytest.mark.skipif(not VALIDATE.exists(), reason="no kubernetes-validate: make test-contract installs it")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_manifests_are_what_their_schemas_allow(overlay: str, tmp_path: Path) -> None:
    """Each document follows the schemas of an old and a new Kubernetes, and has no unknown member."""
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(named(overlay).values()))
    command = [str(VALIDATE), "--strict", "-k", "1.33", "-k", "1.36", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed ") == 2 * len(named(overlay))


def test_the_load_does_not_overlap_and_retries_temporary_faults() -> None:
    """The job fails at once at final exit codes; a pod failure policy requires pods that are never restarted."""
    job = named("production")["CronJob", "etl-load"]["spec"]
    assert (job["concurrencyPolicy"], job.get("suspend", False)) == ("Forbid", False)
    spec = job["jobTemplate"]["spec"]
    (rule,) = (rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob")
    assert (set(rule["values"]), rule["operator"], rule["containerName"]) == (FINAL, "In", "etl")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pods_have_what_they_need_and_no_more(overlay: str) -> None:
    """Each container has limits, no privilege and a password from a Secret; each volume is declared and used."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    found = named(overlay)
    for name, template in pods(overlay).items():
        pod = template["spec"]
        assert pod["enableServiceLinks"] is False, name  # a Service sets ETL_SERVE_PORT otherwise
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert name == "etl-valkey" or f"USER {security['runAsUser']}:{security['runAsGroup']}" in dockerfile
        assert (security["runAsNonRoot"], security["seccompProfile"]["type"]) == (True, "RuntimeDefault")
        [container] = pod["containers"]
        assert set(container["resources"]) == {"requests", "limits"}
        allowed = container["securityContext"]
        assert (allowed["readOnlyRootFilesystem"], allowed["allowPrivilegeEscalation"]) == (True, False)
        assert allowed["capabilities"] == {"drop": ["ALL"]}
        passwords = [each for each in container["env"] if "PASSWORD" in each["name"]]
        assert passwords
        assert all(set(each) == {"name", "valueFrom"} for each in passwords)
        volumes = {each["name"] for each in pod.get("volumes") or claimed(found, name)}
        assert {each["name"] for each in container["volumeMounts"]} == volumes
        if overlay not in BESIDE:
            assert ("ServiceAccount", pod["serviceAccountName"]) in found
            assert [("ConfigMap", each["configMapRef"]["name"]) in found for each in container["envFrom"]] == [True]
    text = "".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    assert not re.findall(r"(?i)^\s*(?:password|token)\w*:\s*\S", text, re.MULTILINE)


def test_the_pods_run_commands_of_the_program() -> None:
    """The containers and the probe of the listener run commands that exist, with options that exist."""
    commands = []
    for template in [*pods("production").values(), *collectors().values()]:
        [container] = template["spec"]["containers"]
        commands.append(container["args"])
        if "exec" in container.get("readinessProbe", {}):
            commands.append(container["readinessProbe"]["exec"]["command"][1:])
    assert len(commands) == 7
    for command in commands:
        ended = in_process.call([*command, "--help"], env={}, cwd=ROOT)
        assert ended.returncode == 0, ended.stderr


def collectors() -> dict[str, Document]:
    """Return the templates of the pods that accept and load events, without that of Valkey."""
    return {name: template for name, template in pods("production-collect").items() if name != "etl-valkey"}


def test_the_collector_accepts_without_a_disk() -> None:
    """Replicas accept, one worker loads with a volume, and Valkey has the settings that the collector requires."""
    found = named("production-collect")
    templates = pods("production-collect")
    assert found["Deployment", "etl-collect"]["spec"]["replicas"] == 2
    for name, part in {"etl-collect": "accept", "etl-collect-load": "load"}.items():
        [container] = templates[name]["spec"]["containers"]
        assert container["args"][container["args"].index("--part") + 1] == part
        [buffer] = [each["value"] for each in container["env"] if each["name"] == "ETL_COLLECT_BUFFER"]
        assert buffer == "redis://:$(VALKEY_PASSWORD)@etl-valkey:6379/0"
        assert (
            found["NetworkPolicy", "etl-collect"]["spec"]["podSelector"]["matchExpressions"][0]["values"].count(name)
            == 1
        )
    claims = [each for each in templates["etl-collect"]["spec"]["volumes"] if "emptyDir" not in each]
    assert not claims
    [valkey] = templates["etl-valkey"]["spec"]["containers"]
    given = dict(zip(valkey["args"][::2], valkey["args"][1::2], strict=True))
    assert {name: given[f"--{name}"] for name in EXPECTED} == EXPECTED
    assert {("Service", "etl-collect"), ("Service", "etl-valkey"), ("ServiceAccount", "etl-collect")} <= set(found)


def test_the_service_has_two_replicas_and_asks_for_keys() -> None:
    """Probes are on its own addresses; Service, scaling and budget select the pods of one slot."""
    found = named("production")
    deployment = found["Deployment", "etl-serve-blue"]["spec"]
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    assert deployment["replicas"] == 2
    probes = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert probes == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert container["args"][container["args"].index("--auth") + 1] == "keys"
    assert pod["terminationGracePeriodSeconds"] > 5 + 10
    labels = deployment["template"]["metadata"]["labels"]
    assert labels == {"app": "etl-serve", "slot": "blue"}
    assert deployment["selector"]["matchLabels"] == found["Service", "etl-serve"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget", "etl-serve-blue"]["spec"]["selector"]["matchLabels"] == labels
    scaled = found["HorizontalPodAutoscaler", "etl-serve-blue"]["spec"]
    assert (scaled["scaleTargetRef"]["name"], scaled["minReplicas"]) == ("etl-serve-blue", 2)
    green = named("production-green")["Deployment", "etl-serve-green"]["spec"]["template"]["metadata"]["labels"]
    assert green == labels | {"slot": "green"}
    small = named("development")
    assert small["Deployment", "etl-serve-blue"]["spec"]["replicas"] == 1
    assert small["CronJob", "etl-load"]["spec"]["suspend"] is True


def test_only_the_service_takes_connections() -> None:
    """A policy closes all pods, names the same labels as they have, and opens name servers and the database."""
    found = named("production")
    closed = found["NetworkPolicy", "etl"]["spec"]
    labels = {template["metadata"]["labels"]["app"] for template in pods("production").values()}
    [expression] = closed["podSelector"]["matchExpressions"]
    assert (set(expression["values"]), closed["ingress"]) == (labels, [])
    ports = {port["port"] for rule in closed["egress"] for port in rule["ports"]}
    assert ports == {53, int(found["ConfigMap", "etl-database"]["data"]["PGPORT"])}
    opened = found["NetworkPolicy", "etl-serve"]["spec"]
    assert opened["podSelector"]["matchLabels"] == {"app": "etl-serve"}


def test_the_users_of_the_manifests_can_do_their_work(site: Site) -> None:
    """After roles.sql, `nightly` may load, `serve` may answer for keys, and `collect` may do both."""
    text = (FOLDER / "roles.sql").read_text()
    used = {
        each["value"]
        for template in [*pods("production").values(), *collectors().values()]
        for each in template["spec"]["containers"][0]["env"]
        if each["name"] == "PGUSER"
    }
    made = set(re.findall(r"^create role (\w+) login", text, re.MULTILINE))
    assert used == made | {"owner"}
    renamed = re.sub(r"\b(nightly|serve|collect)\b", r"k8s_\1", text)
    site.connection.execute(renamed.encode())
    try:
        for role, table, right in (
            ("k8s_nightly", "etl.separate_batches", "insert"),
            ("k8s_collect", "etl.streams", "update"),
            ("k8s_collect", "etl.api_keys", "select"),
            ("k8s_serve", "etl.api_tokens", "insert"),
            ("k8s_serve", "etl.api_keys", "select"),
            ("k8s_serve", "analytics.freshness", "select"),
        ):
            assert site.value("select has_table_privilege(%s, %s, %s)", [role, table, right]) is True
        assert site.value("select has_table_privilege('k8s_serve', 'etl.separate_batches', 'insert')") is False
    finally:
        site.ask("drop owned by k8s_nightly, k8s_serve, k8s_collect; drop role k8s_nightly, k8s_serve, k8s_collect")
