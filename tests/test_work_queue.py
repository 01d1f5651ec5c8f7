"""The queue of images: bounds, turns, dropping, threads."""

import threading

import pytest

from serving.page.work_queue import QueueFullError, WorkQueue


@pytest.fixture
def gate():
    """An event that jobs wait for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def queue(gate):
    """A queue of 4 with one worker."""
    made = WorkQueue(4, 1)
    yield made
    gate.set()
    made.close()


def hold(queue, gate, client="holder"):
    """Keeps the worker busy until the gate opens."""
    begun = threading.Event()

    def work():
        begun.set()
        return gate.wait(30)

    (future,) = queue.submit(client, [work])
    assert begun.wait(30)
    return future


def test_jobs_are_done_and_give_their_results(queue):
    futures = queue.submit("a", [lambda: 1, lambda: 2, lambda: 3])
    assert [future.result(30) for future in futures] == [1, 2, 3]


def test_an_error_is_the_jobs_own(queue):
    def fail():
        raise KeyError("no")

    bad, good = queue.submit("a", [fail, lambda: 2])
    assert isinstance(bad.exception(30), KeyError)
    assert good.result(30) == 2


def test_a_full_queue_takes_all_or_nothing(queue, gate):
    hold(queue, gate)
    queue.submit("a", [lambda: 1] * 3)
    assert queue.waiting == 3
    with pytest.raises(QueueFullError) as caught:
        queue.submit("b", [lambda: 2] * 2)
    assert caught.value.seconds >= 1
    assert queue.waiting == 3
    (last,) = queue.submit("b", [lambda: 2])
    gate.set()
    assert last.result(30) == 2


def test_clients_take_turns(queue, gate):
    """A batch of three, then two single images of others: each client's first comes before anyone's second."""
    hold(queue, gate)
    order = []
    batch = queue.submit("batch", [lambda: order.append("batch")] * 2)
    single = queue.submit("single", [lambda: order.append("single")])
    other = queue.submit("other", [lambda: order.append("other")])
    gate.set()
    for future in (*batch, *single, *other):
        future.result(30)
    assert order == ["batch", "single", "other", "batch"]


def test_dropped_jobs_are_not_begun_and_free_their_places(queue, gate):
    running = hold(queue, gate, "gone")
    done = []
    futures = queue.submit("gone", [lambda: done.append(1)] * 4)
    with pytest.raises(QueueFullError):
        queue.submit("next", [lambda: 5])
    queue.drop([running, *futures])
    assert queue.waiting == 0
    assert all(future.cancelled() for future in futures)
    (following,) = queue.submit("next", [lambda: 5])
    gate.set()
    assert running.result(30) is True  # what is begun is finished
    assert following.result(30) == 5
    assert not done


def test_dropping_leaves_the_others_of_a_client(queue, gate):
    hold(queue, gate)
    (first,) = queue.submit("a", [lambda: 1])
    (second,) = queue.submit("a", [lambda: 2])
    queue.drop([first])
    assert queue.waiting == 1
    gate.set()
    assert second.result(30) == 2


def test_the_wait_is_guessed_from_the_mean_of_the_jobs():
    """Clock readings: a job of 10 s; the mean goes from 0.2 s by a tenth of the way to 1.18 s."""
    readings = iter([0.0, 0.0, 10.0])
    waits = []
    queue = WorkQueue(1, 1, on_begin=waits.append, clock=lambda: next(readings, 10.0))
    queue.submit("a", [lambda: None])[0].result(30)
    release = threading.Event()
    begun = threading.Event()

    def block():
        begun.set()
        release.wait(30)

    queue.submit("a", [block])
    assert begun.wait(30)
    queue.submit("a", [lambda: None])
    with pytest.raises(QueueFullError) as caught:
        queue.submit("a", [lambda: None] * 5)  # five too many: 5 x 1.18 s = 5.9 s
    assert caught.value.seconds == 6
    release.set()
    queue.close()
    assert waits[0] == 0.0


def test_several_workers_work_at_once():
    queue = WorkQueue(4, 2)
    meeting = threading.Barrier(2)
    futures = queue.submit("a", [lambda: meeting.wait(30)] * 2)
    assert sorted(future.result(30) for future in futures) == [0, 1]
    queue.close()


def test_a_closed_queue_drops_what_waits_and_takes_nothing(gate):
    queue = WorkQueue(4, 1)
    running = hold(queue, gate)
    (waiting,) = queue.submit("a", [lambda: 1])
    queue.close(seconds=0.0)
    assert waiting.cancelled()
    with pytest.raises(QueueFullError):
        queue.submit("a", [lambda: 1])
    gate.set()
    assert running.result(30) is True
    queue.close()
    assert not [thread for thread in threading.enumerate() if thread in queue._threads]


def test_no_jobs_are_no_work(queue):
    assert queue.submit("a", []) == []
    assert queue.waiting == 0
