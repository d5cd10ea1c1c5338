"""Fail a run in which a test was skipped that should have run."""

from collections.abc import Collection

import pytest


class ExpectedSkips:
    """A pytest plugin.

    Args:
        reasons: why tests may be skipped, each as it stands in the mark.
    """

    def __init__(self, reasons: Collection[str]) -> None:
        self._reasons = reasons
        self._unexpected: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes an unexpected skip; where tests run in parallel, pytest calls this for those of all processes."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notes a whole file that is skipped."""
        if report.skipped:
            self._note(report.nodeid, report.longrepr)

    def _note(self, name: str, cause: object) -> None:
        reason = str(cause[2] if isinstance(cause, tuple) else cause).removeprefix("Skipped: ")
        if reason not in self._reasons:
            self._unexpected.append(f"{name}: {reason}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The run fails, unless it has failed already."""
        if self._unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Names them."""
        for line in self._unexpected:
            terminalreporter.write_line(f"unexpected skip: {line}", red=True)
