"""What the stand's controllers do next is what Kubernetes' would."""

from tests.deploy.rendering import Object, Workload
from tests.stand.controllers import Known, Steps, revision, steps

OLD = "old"


def _workload(kind: str, **spec: object) -> Workload:
    pod: Object = {"metadata": {"labels": {}}, "spec": {"containers": [{}]}}
    return Workload(kind, "w", spec, pod)


SET = _workload("StatefulSet", podManagementPolicy="Parallel")
DEPLOYMENT = _workload("Deployment", strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
NEW = revision(SET)


def test_a_stateful_set_begins_with_all_at_the_same_time() -> None:
    assert steps(SET, 3, 0, []) == Steps(["w-0", "w-1", "w-2"], [])


def test_a_stateful_set_is_replaced_from_the_last_one_by_one() -> None:
    """The next one only when the one before is back and available."""
    first, last = Known("w-0", OLD, available=True), Known("w-1", OLD, available=True)
    assert steps(SET, 2, 0, [first, last]).end == ["w-1"]
    assert steps(SET, 2, 0, [first, last._replace(ending=True)]) == Steps([], [])
    assert steps(SET, 2, 0, [first]) == Steps(["w-1"], [])
    assert steps(SET, 2, 0, [first, Known("w-1", NEW)]) == Steps([], [])
    assert steps(SET, 2, 0, [first, Known("w-1", NEW, available=True)]).end == ["w-0"]
    assert steps(SET, 2, 1, [first, Known("w-1", NEW, available=True)]) == Steps([], [])  # held on its way


def test_a_deployment_makes_one_more_before_it_ends_one() -> None:
    """With maxUnavailable 0: never fewer available ones than are wanted."""
    old = [Known("a", OLD, available=True), Known("b", OLD, available=True)]
    fresh = f"w-{NEW}-0"
    assert steps(DEPLOYMENT, 2, 0, old) == Steps([fresh], [])
    assert steps(DEPLOYMENT, 2, 0, [*old, Known(fresh, NEW)]) == Steps([], [])
    half = [*old, Known(fresh, NEW, available=True)]
    assert steps(DEPLOYMENT, 2, 0, half) == Steps([], ["a"])
    ending = [old[0]._replace(ending=True, available=False), *half[1:]]
    assert steps(DEPLOYMENT, 2, 0, ending) == Steps([f"w-{NEW}-1"], [])
    assert steps(DEPLOYMENT, 2, 1, ending) == Steps([], [])  # held on its way
    done = [Known(fresh, NEW, available=True), Known("d", NEW, available=True)]
    assert steps(DEPLOYMENT, 2, 0, done) == Steps([], [])


def test_a_deployment_ends_those_first_that_do_not_serve() -> None:
    broken = [Known("a", OLD, available=True), Known("b", OLD)]
    assert steps(DEPLOYMENT, 2, 0, broken).end == ["b"]


def test_a_job_has_one_pod_whatever_became_of_it() -> None:
    job = _workload("Job")
    assert steps(job, 1, 0, []) == Steps(["w-0"])
    assert steps(job, 1, 0, [Known("w-0", NEW)]) == Steps()
