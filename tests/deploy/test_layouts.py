"""Another number of shards, by one value: `[2]`, then `[2, 3]`, then `[3]`."""

from tests.deploy.rendering import Object, of_kind, render, workloads

STEPS = [[2], [2, 3], [3]]


def _of(layout: int, found: list[Object]) -> list[Object]:
    """What belongs to one layout alone."""
    return [each for each in found if f"-of-{layout}-" in each["metadata"]["name"]]


def test_a_step_leaves_alone_what_stays() -> None:
    """No process of a layout that stays is started again by a step, nor is a coordinator: their objects are equal."""
    before, between, after = (render({"shards": shards}) for shards in STEPS)
    assert _of(2, before) == _of(2, between)
    assert _of(3, between) == _of(3, after)
    assert len(_of(2, before)) == 2 * 2  # StatefulSets and budgets
    assert _of(3, before) == []
    assert _of(2, after) == []
    rest = [[each for each in step if "-layout-" not in each["metadata"]["name"]] for step in (before, between, after)]
    common = [[each for each in step if each not in _of(2, step) + _of(3, step)] for step in rest]
    assert common[0] == common[1] == common[2]


def test_a_step_says_which_layout_is_wanted() -> None:
    """The last of the list, by a Job of its own; back again is a Job, too."""
    jobs = []
    for shards in (*STEPS, [3, 2]):
        (job,) = (each for each in workloads(render({"shards": shards})) if each.component == "layout")
        jobs.append((job.name, job.container["args"][:2]))
    assert [words for _, words in jobs] == [["--set", "2"], ["--set", "3"], ["--set", "3"], ["--set", "2"]]
    assert jobs[0][0] != jobs[1][0] == jobs[2][0]


def test_every_layout_is_found_by_the_same_name() -> None:
    """Coordinators look for all shard processes at one Service, which selects those of both layouts."""
    found = render({"shards": [2, 3]})
    (service,) = (each for each in of_kind(found, "Service") if each["metadata"]["name"] == "vitrail-shards")
    shards = [each for each in workloads(found) if each.component == "shard"]
    assert len(shards) == 5
    for each in shards:
        assert set(service["spec"]["selector"].items()) <= set(each.labels.items())
