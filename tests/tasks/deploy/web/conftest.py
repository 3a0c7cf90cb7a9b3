"""One browser for a file of tests."""

import pytest

from tests.browser import Chromium


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.end()
