"""Reading ahead and writing behind: in order, bounded, and no error is lost."""

import threading

import pytest

from tasks.files.pipeline import WriteBehind, read_ahead


def test_results_come_in_order_and_only_a_few_ahead():
    begun = []
    for number, (item, result) in enumerate(read_ahead(lambda item: begun.append(item) or -item, range(20), limit=3)):
        assert (item, result()) == (number, -number)
        assert len(begun) <= number + 1 + 3
    assert sorted(begun) == list(range(20))


def test_an_error_is_that_of_its_item():
    def inverse(value):
        return 1 / value

    found = []
    for item, result in read_ahead(inverse, [1, 0, 2]):
        try:
            found.append(result())
        except ZeroDivisionError:
            found.append(f"{item} fails")
    assert found == [1.0, "0 fails", 0.5]


def test_a_reader_that_is_left_early_stops():
    begun, go = [], threading.Event()

    def read(item):
        begun.append(item)
        go.wait()

    for _ in (reading := read_ahead(read, range(100), limit=2)):
        go.set()
        break
    reading.close()
    assert len(begun) <= 3


def test_calls_run_in_order_and_stay_near():
    done = []
    with WriteBehind(limit=2) as behind:
        for number in range(10):
            behind.submit(done.append, number)
            assert len(done) >= number - 2
    assert done == list(range(10))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_behind_is_raised(threads):
    def fail():
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), WriteBehind(threads=threads) as behind:
        behind.submit(fail)  # at the end, if not before
    with pytest.raises(OSError, match="no space left"), WriteBehind(threads=threads, limit=1) as behind:
        behind.submit(fail)
        behind.submit(print)
        pytest.fail("the second call waits for the first")


def test_the_callers_own_error_stays_and_what_waits_is_dropped():
    done, go = [], threading.Event()
    with pytest.raises(KeyboardInterrupt), WriteBehind() as behind:
        behind.submit(go.wait)
        behind.submit(done.append, 1)
        threading.Timer(0.1, go.set).start()
        raise KeyboardInterrupt
    assert not done
